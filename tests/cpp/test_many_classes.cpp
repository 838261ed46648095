// A million classes, on one thread and with a row's columns spread over several.
#include "compare.hpp"

KD_CASE_EACH_TYPE(many_classes) {
  Comparison<T> comparison;
  Batch<T> batch(2, 1000000);
  Random random(7);
  fill(Kind::kNear, random, batch.classes, &batch.s(0, 0), &batch.t(0, 0));
  fill(Kind::kPeakedOnFlat, random, batch.classes, &batch.s(1, 0), &batch.t(1, 0));
  batch.labels = {999999, 123456};
  comparison.add(batch);  // as many threads as there are

  Result<T> alone, spread;
  for (int threads : {1, 2, 3, 7}) {
    spread = run(batch, 0.5, threads);
    if (threads == 1) alone = spread;
    CHECK_AT(check::same_bits(spread.loss, alone.loss), threads, " threads");
    CHECK_AT(check::same_bits(spread.grad, alone.grad), threads, " threads");
  }
}
