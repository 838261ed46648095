// The same bits from any number of threads, from several callers at once, and from rows in one piece or in
// blocks.
#include <sys/wait.h>
#include <unistd.h>

#include <limits>
#include <thread>

#include "../../cpp/src/parallel.hpp"
#include "compare.hpp"

namespace {

template <class T>
struct Everything {
  std::vector<T> loss, hard, soft, grad;
  double mean, parts_mean, hard_mean, soft_mean;
  bool operator==(const Everything& o) const {
    return check::same_bits(loss, o.loss) && check::same_bits(hard, o.hard) &&
           check::same_bits(soft, o.soft) && check::same_bits(grad, o.grad) &&
           check::same_bits(mean, o.mean) && check::same_bits(parts_mean, o.parts_mean) &&
           check::same_bits(hard_mean, o.hard_mean) && check::same_bits(soft_mean, o.soft_mean);
  }
};

template <class T>
Everything<T> everything(const Batch<T>& batch, int threads) {
  Everything<T> r;
  r.loss.resize(batch.labels.size()), r.hard = r.soft = r.loss;
  r.grad.resize(batch.student.size());
  kdloss::Options options;
  options.tau = batch.tau, options.num_threads = threads;
  r.mean = kdloss::kd_loss_and_grad<T>(batch.student_view(), batch.teacher_view(), batch.label_view(),
                                       {r.grad.data(), batch.rows, batch.classes}, options);
  const kdloss::Parts parts =
      kdloss::kd_loss_parts<T>(batch.student_view(), batch.teacher_view(), batch.label_view(), options,
                               r.loss.data(), r.hard.data(), r.soft.data());
  r.parts_mean = parts.loss, r.hard_mean = parts.hard, r.soft_mean = parts.soft;
  return r;
}

// Rows without a class and without anything too, and rows with masks, by both or by the teacher alone.
template <class T>
Batch<T> mixed_batch(std::int64_t rows, std::int64_t classes) {
  Batch<T> batch = random_batch<T>(rows, classes);
  for (std::int64_t i = 2; i < rows; i += 5)
    for (std::int64_t c = 1; c < classes; c += 3) {
      batch.t(i, c) = -std::numeric_limits<T>::infinity();
      if (i % 2 == 0) batch.s(i, c) = -std::numeric_limits<T>::infinity();
    }
  for (std::size_t i = 0; i < batch.labels.size(); ++i) {
    if (i % 7 == 3) batch.labels[i] = kdloss::kUnlabelled;
    if (i % 11 == 5) batch.labels[i] = -100;
  }
  return batch;
}

// Many short rows, middle ones, and few long ones, whose columns are spread instead.
struct Shape {
  std::int64_t rows, classes;
};
const Shape kShapes[] = {{12289, 10}, {1003, 256}, {801, 257}, {67, 2000}, {3, 70001}, {1, 131072}};

}  // namespace

KD_CASE_EACH_TYPE(same_bits.any_number_of_threads) {
  for (auto [rows, classes] : kShapes) {
    CHECK_AT(kdloss::threads_for(7, rows * classes) == 7, rows, " x ", classes,
             " is too little for 7 threads");
    const Batch<T> batch = mixed_batch<T>(rows, classes);
    const Everything<T> alone = everything(batch, 1);
    for (int threads : {0, 2, 3, 7})
      CHECK_AT(everything(batch, threads) == alone, rows, " x ", classes, ", ", threads, " threads");
  }
}

KD_CASE_EACH_TYPE(same_bits.several_callers_at_once) {
  const Batch<T> few = mixed_batch<T>(3001, 20), many = mixed_batch<T>(41, 3000);
  const Everything<T> few_alone = everything(few, 1), many_alone = everything(many, 1);
  bool same[6] = {};
  std::vector<std::thread> callers;
  for (int i = 0; i < 6; ++i)
    callers.emplace_back([&, i] {
      same[i] = true;
      for (int round = 0; round < 3; ++round)
        same[i] &= everything(few, i % 3) == few_alone && everything(many, i % 3) == many_alone;
    });
  for (std::thread& caller : callers) caller.join();
  for (int i = 0; i < 6; ++i) CHECK_AT(same[i], "caller ", i);
}

// OpenMP's threads are not there in a forked child, which makes its own.
KD_CASE(same_bits.in_a_forked_child) {
  const Batch<float> batch = mixed_batch<float>(3001, 60);
  const Everything<float> here = everything(batch, 2);
  const pid_t child = fork();
  if (child == 0) {
    alarm(60);  // ends a child that hangs
    _exit(everything(batch, 2) == here ? 0 : 1);
  }
  int status = -1;
  CHECK(waitpid(child, &status, 0) == child);
  CHECK_AT(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status ", status);
  CHECK(everything(batch, 2) == here);
}

KD_CASE_EACH_TYPE(same_bits.rows_in_blocks) {
  const std::int64_t rows = 70;
  for (const std::int64_t classes : {1, 10, 256, 257, 1500}) {
    const Batch<T> batch = mixed_batch<T>(rows, classes);
    kdloss::Options options;
    options.reduction = kdloss::Reduction::kSum;
    const auto run_rows = [&](std::int64_t begin, std::int64_t end, Result<T>& r) {
      kdloss::kd_loss_and_grad<T>({batch.student.data() + begin * classes, end - begin, classes},
                                  {batch.teacher.data() + begin * classes, end - begin, classes},
                                  {batch.labels.data() + begin, end - begin},
                                  {r.grad.data() + begin * classes, end - begin, classes}, options,
                                  r.loss.data() + begin);
    };
    Result<T> whole{std::vector<T>(batch.labels.size()), std::vector<T>(batch.student.size())};
    run_rows(0, rows, whole);
    for (const std::vector<std::int64_t>& sizes :
         {std::vector<std::int64_t>{1}, {7}, {16}, {17}, {3, 30, 1, 8}}) {
      Result<T> cut{std::vector<T>(batch.labels.size()), std::vector<T>(batch.student.size())};
      std::int64_t begin = 0;
      for (std::size_t i = 0; begin < rows; ++i) {
        const std::int64_t end = std::min(rows, begin + sizes[i % sizes.size()]);
        run_rows(begin, end, cut);
        begin = end;
      }
      CHECK_AT(check::same_bits(cut.loss, whole.loss), classes, " classes, blocks of ", sizes[0]);
      CHECK_AT(check::same_bits(cut.grad, whole.grad), classes, " classes, blocks of ", sizes[0]);
    }
  }
}
