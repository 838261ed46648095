// Every remainder around the lane width, the blocks, the chunks and the border between the two layouts, with
// rows of every kind, against the slow reference.
#include "compare.hpp"

namespace {
constexpr double kTaus[] = {4, 1, 2.5, 20, 3, 7, 0.5, 8};
double tau_for(std::int64_t i) { return kTaus[static_cast<std::size_t>(i) % std::size(kTaus)]; }
}  // namespace

KD_CASE_EACH_TYPE(sizes.few_classes) {
  Comparison<T> comparison;
  for (std::int64_t classes = 1; classes <= 40; ++classes)
    for (std::int64_t rows = 1; rows <= 35; ++rows)
      comparison.add(
          random_batch<T>(rows, classes, tau_for(classes + rows), static_cast<std::uint64_t>(rows)));
}

KD_CASE_EACH_TYPE(sizes.hundreds) {
  Comparison<T> comparison;
  for (std::int64_t classes = 127; classes <= 200; ++classes)
    for (std::int64_t rows : {1, 11, 17})
      comparison.add(random_batch<T>(rows, classes, tau_for(classes), static_cast<std::uint64_t>(classes)));
}

KD_CASE_EACH_TYPE(sizes.one_block) {
  Comparison<T> comparison;
  for (std::int64_t classes = 1020; classes <= 1030; ++classes)
    comparison.add(random_batch<T>(10, classes, tau_for(classes), static_cast<std::uint64_t>(classes)));
}

KD_CASE_EACH_TYPE(sizes.two_blocks) {
  Comparison<T> comparison;
  for (std::int64_t classes = 2040; classes <= 2060; ++classes)
    comparison.add(random_batch<T>(10, classes, tau_for(classes), static_cast<std::uint64_t>(classes)));
}

// Sure of classes in different blocks: each block lies far down for the student, for the teacher or for both,
// and there its sums of one are many times those of the other.
KD_CASE_EACH_TYPE(sizes.peaks_in_blocks_of_their_own) {
  Comparison<T> comparison;
  Random random(11);
  for (double tau : {1.0, 2.0, 4.0}) {
    Batch<T> batch = random_batch<T>(12, 4 * 1024 + 45, tau);
    for (std::int64_t i = 0; i < batch.rows; ++i) {
      const std::int64_t peak = i % 4 * 1024 + random.below(1024), other = i / 3 * 1024 + random.below(1024);
      for (std::int64_t c = 0; c < batch.classes; ++c) {
        batch.s(i, c) = static_cast<T>(random.normal() + (c == peak ? 30 : 0));
        batch.t(i, c) = static_cast<T>(5 * tau * random.normal() + (c == other ? 30 : 0));
      }
    }
    comparison.add(batch);
  }
}

// Student and teacher far from zero and from each other, at any temperature: s - t is then rounded to many
// times tau.
KD_CASE_EACH_TYPE(sizes.far_offsets_at_any_tau) {
  Comparison<T> comparison;
  Random random(13);
  for (std::int64_t classes : {2, 10, 100, 300, 2100})
    for (double offset : {100.0, 1e4, 1e6})
      for (double tau : {1e-3, 1e-2, 0.1, 1.0, 4.0}) {
        Batch<T> batch = random_batch<T>(17, classes, tau);
        for (T& s : batch.student) s = static_cast<T>(10 * tau * random.normal() + offset);
        for (T& t : batch.teacher) t = static_cast<T>(10 * tau * random.normal() - offset);
        comparison.add(batch);
      }
}

// A student of two classes, neither of which is its teacher's, a little away from zero: what rounding takes
// from their gaps is then a share of tau.
KD_CASE_EACH_TYPE(sizes.two_classes_of_a_distant_student) {
  Comparison<T> comparison;
  Random random(17);
  const double offset = sizeof(T) == sizeof(float) ? 16 : 256;
  for (std::int64_t classes : {10, 100, 300, 2100})
    for (double tau : {0.015, 0.02, 0.05, 0.1, 0.5, 1.0, 4.0}) {
      Batch<T> batch = random_batch<T>(40, classes, tau);
      for (std::int64_t i = 0; i < batch.rows; ++i) {
        for (std::int64_t c = 0; c < classes; ++c) {
          batch.s(i, c) = static_cast<T>(offset - 1.1 + 0.01 * random.normal());
          batch.t(i, c) = static_cast<T>(-1.1 + 0.01 * random.normal());
        }
        batch.t(i, 0) = 0;
        batch.s(i, 1) = static_cast<T>(offset - 0.05);
        batch.s(i, 2) = static_cast<T>(offset - 0.05 - random.uniform(0, tau));
      }
      comparison.add(batch);
    }
}

// A student that wants what lies far down for its teacher: the teacher's distance and the gap back from there
// are rounded, each by a share of that distance, and two classes may err in opposite directions. All
// distances about the reaches of the plain path, in logits and in units of tau.
KD_CASE_EACH_TYPE(sizes.student_wants_what_its_teacher_does_not) {
  Comparison<T> comparison;
  Random random(19);
  for (std::int64_t classes : {4, 100, 300})
    for (double tau : {1.0, 2.0, 8.0})
      for (double distance : {21.5, 31.5, 44.5, 63.5, 79.5, 31.5 * tau, 44.5 * tau, 79.5 * tau}) {
        Batch<T> batch = random_batch<T>(classes == 4 ? 2000 : 200, classes, tau);
        for (std::int64_t i = 0; i < batch.rows; ++i) {
          const double s0 = random.uniform(-60, 60), t0 = random.uniform(-60, 60);
          const std::int64_t wanted = i % 2 == 0 ? 2 : classes / 2;
          for (std::int64_t c = 0; c < classes; ++c) {
            const bool in_wanted = c < wanted;
            batch.s(i, c) = static_cast<T>(s0 - (in_wanted ? random.uniform(0, 2 * tau) : distance));
            batch.t(i, c) = static_cast<T>(t0 - random.uniform(0, 0.5) - (in_wanted ? distance - 0.5 : 0));
          }
          batch.labels[static_cast<std::size_t>(i)] = 0;
        }
        comparison.add(batch);
      }
}

KD_CASE_EACH_TYPE(sizes.chunks) {
  Comparison<T> comparison;
  for (std::int64_t border : {8192, 16384, 24576})
    for (std::int64_t classes = border - 2; classes <= border + 2; ++classes)
      comparison.add(random_batch<T>(2, classes, tau_for(classes), static_cast<std::uint64_t>(classes)));
}

// From a temperature that makes every row peaked to one that makes every row flat.
KD_CASE_EACH_TYPE(sizes.any_tau) {
  Comparison<T> comparison;
  for (std::int64_t classes : {2, 10, 144, 256, 257, 300})
    for (double tau : {1e-3, 1e-2, 0.1, 0.7, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 33.3, 1e3, 1e6})
      comparison.add(random_batch<T>(30, classes, tau));
}
