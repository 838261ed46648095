// A student or a teacher of the type that the compiler is told, for the tests of which types it takes.
#include <kdloss/kdloss.hpp>

#ifndef STUDENT
#define STUDENT float
#endif
#ifndef TEACHER
#define TEACHER float
#endif

double loss(const STUDENT* student, const TEACHER* teacher, const std::int64_t* label) {
  return kdloss::kd_loss_batch<STUDENT>({student, 1, 3}, {teacher, 1, 3}, {label, 1});
}
