#include <cstdio>
#include <kdloss/kdloss.hpp>

int main() {
  const float student[] = {2.0f, 0.5f, -1.0f, 0.2f, -0.1f, 1.2f},
              teacher[] = {3.0f, 1.0f, -0.5f, -0.2f, 0.3f, 2.0f};
  const std::int64_t labels[] = {0, 2};
  float grad[6];
  const double loss =
      kdloss::kd_loss_and_grad<float>({student, 2, 3}, {teacher, 2, 3}, {labels, 2}, {grad, 2, 3});
  std::printf("loss %.6f, gradient %.6f ..., on %s\n", loss, static_cast<double>(grad[0]),
              kdloss::active_isa().c_str());
  return loss > 0 && grad[0] < 0 ? 0 : 1;
}
