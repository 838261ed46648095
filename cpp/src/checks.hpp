// What every batch function refuses, and the words for it.
#pragma once

#include <string>

#include "kdloss/kdloss.hpp"

namespace kdloss {

std::string shape(std::int64_t rows, std::int64_t classes);

void check_tau(double tau);
void check_alpha(double alpha);
void check_classes(const char* name, std::int64_t rows, std::int64_t classes);
// For the logits of one row.
void check_classes(const char* name, std::int64_t classes);
void check_same_shape(const char* name, std::int64_t rows, std::int64_t classes, const char* other_name,
                      std::int64_t other_rows, std::int64_t other_classes);

struct LabelCounts {
  std::int64_t counting, labelled;  // rows that are not padding, and those of them with a class
};
// Refuses the first label that is no class, not kUnlabelled (or that too, where it may not be) and not
// ignore_index. one_row: the label is called "label" and stands alone.
LabelCounts check_labels(Labels labels, std::int64_t rows, std::int64_t classes, std::int64_t ignore_index,
                         bool unlabelled_allowed, bool one_row = false);

}  // namespace kdloss
