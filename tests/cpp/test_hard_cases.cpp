// The exact numbers of tests/data/kd_hard_cases.bin, whose format tests/data/convert.py describes.
#include <fstream>
#include <stdexcept>
#include <type_traits>

#include "compare.hpp"

namespace {

class File {
 public:
  explicit File(const std::string& path) : in_(path, std::ios::binary) {
    if (!in_) throw std::runtime_error("cannot read " + path);
  }
  template <class T>
  std::vector<T> read(std::size_t count) {
    std::vector<T> values(count);
    in_.read(reinterpret_cast<char*>(values.data()), static_cast<std::streamsize>(count * sizeof(T)));
    if (!in_) throw std::runtime_error("the file of hard cases ends too early");
    return values;
  }
  std::int64_t integer() { return read<std::int64_t>(1)[0]; }
  std::size_t size() { return static_cast<std::size_t>(integer()); }

 private:
  std::ifstream in_;
};

template <class T>
struct ExactBatch : Batch<T> {
  using Batch<T>::Batch;
  std::string name;
  std::vector<double> hard, soft, grad_hard, grad_soft;

  Truth exact(std::int64_t i) const {
    const auto at = [&](const std::vector<double>& grad) {
      return std::vector<Real>(grad.begin() + i * this->classes, grad.begin() + (i + 1) * this->classes);
    };
    const auto row = static_cast<std::size_t>(i);
    return {hard[row], soft[row], at(grad_hard), at(grad_soft)};
  }
};

// Calls use(batch) for each batch of the file that holds T.
template <class T, class Use>
void for_hard_cases(Use&& use) {
  File file(KDLOSS_TEST_DATA "/kd_hard_cases.bin");
  const std::int64_t count = file.integer();
  const auto read_batch = [&](auto value, const std::string& name, std::int64_t rows, std::int64_t classes) {
    using Value = decltype(value);
    ExactBatch<Value> batch(rows, classes, file.read<double>(1)[0]);
    const std::size_t n = batch.labels.size(), size = batch.student.size();
    batch.name = name;
    batch.student = file.read<Value>(size);
    batch.teacher = file.read<Value>(size);
    batch.labels = file.read<std::int64_t>(n);
    batch.hard = file.read<double>(n);
    batch.soft = file.read<double>(n);
    batch.grad_hard = file.read<double>(size);
    batch.grad_soft = file.read<double>(size);
    if constexpr (std::is_same_v<T, Value>) use(batch);
  };
  for (std::int64_t i = 0; i < count; ++i) {
    const std::size_t name_length = file.size(), value_size = file.size();
    const std::int64_t rows = file.integer(), classes = file.integer();
    const std::vector<char> letters = file.read<char>(name_length);
    const std::string name(letters.begin(), letters.end());
    if (value_size == sizeof(float))
      read_batch(float(), name, rows, classes);
    else
      read_batch(double(), name, rows, classes);
  }
}

}  // namespace

KD_CASE_EACH_TYPE(hard_cases) {
  int batches = 0;
  Comparison<T> comparison;
  for_hard_cases<T>([&](const ExactBatch<T>& batch) {
    ++batches;
    comparison.add(batch, batch.name, [&](std::int64_t i) { return batch.exact(i); });
  });
  CHECK(batches == 42);
}

// The reference, which the other tests rely on.
KD_CASE(hard_cases.reference) {
  check::Worst hard("hard loss", tolerance::kReference), soft("soft loss", tolerance::kReference);
  check::Worst grad_hard("hard gradient", tolerance::kReference),
      grad_soft("soft gradient", tolerance::kReference);
  const auto compare = [&](const auto& batch) {
    for (std::int64_t i = 0; i < batch.rows; ++i) {
      const Truth found = batch.truth(i), exact = batch.exact(i);
      hard.add(relative_error<double>(found.hard, exact.hard, exact.hard), batch.name, " row ", i);
      soft.add(relative_error<double>(found.soft, exact.soft, exact.soft), batch.name, " row ", i);
      const Real most_hard = largest_magnitude(exact.grad_hard),
                 most_soft = largest_magnitude(exact.grad_soft);
      for (std::size_t c = 0; c < exact.grad_hard.size(); ++c) {
        grad_hard.add(relative_error<double>(found.grad_hard[c], exact.grad_hard[c], most_hard), batch.name);
        grad_soft.add(relative_error<double>(found.grad_soft[c], exact.grad_soft[c], most_soft), batch.name);
      }
    }
  };
  for_hard_cases<float>(compare);
  for_hard_cases<double>(compare);
  for (const check::Worst* worst : {&hard, &soft, &grad_hard, &grad_soft}) CHECK_HOLDS(*worst);
}
