// A million classes, on one thread and with a row's columns spread over several.
#include "compare.hpp"

KD_CASE_EACH_TYPE(many_classes) {
  Comparison<T> comparison;
  Batch<T> batch(4, 1000000);
  Random random(7);
  fill(Kind::kNear, random, batch.classes, &batch.s(0, 0), &batch.t(0, 0));
  fill(Kind::kPeakedOnFlat, random, batch.classes, &batch.s(1, 0), &batch.t(1, 0));
  // A peak, and tails that are each less than half a unit in its last place: together they are the loss.
  const T far = sizeof(T) == sizeof(float) ? T(-18) : T(-37);
  for (std::int64_t i : {2, 3})
    for (std::int64_t c = 1; c < batch.classes; ++c) batch.s(i, c) = far * 4 + 1, batch.t(i, c) = far * 4;
  batch.s(3, 77) = batch.t(3, 77) = -std::numeric_limits<T>::infinity();
  batch.labels = {999999, 123456, 0, 0};
  comparison.add(batch);  // as many threads as there are

  Result<T> alone, spread;
  for (int threads : {1, 2, 3, 7}) {
    spread = run(batch, 0.5, threads);
    if (threads == 1) alone = spread;
    CHECK_AT(check::same_bits(spread.loss, alone.loss), threads, " threads");
    CHECK_AT(check::same_bits(spread.grad, alone.grad), threads, " threads");
  }
}
