// What every batch function refuses, and the words for it.
#pragma once

#include <string>

#include "kdloss/kdloss.hpp"

namespace kdloss {

std::string shape(std::int64_t rows, std::int64_t classes);

void check_tau(double tau);
// An array that is wanted: with classes, and with data where it has rows.
void check_matrix(const char* name, const void* data, std::int64_t rows, std::int64_t classes);
void check_present(const char* name, const void* data, std::int64_t rows, std::int64_t classes);
// For the logits of one row.
void check_classes(const char* name, std::int64_t classes);
void check_same_shape(const char* name, std::int64_t rows, std::int64_t classes, const char* other_name,
                      std::int64_t other_rows, std::int64_t other_classes);

// What does not belong to a row: alpha and tau as numbers, class weights, smoothing, the normalizer.
void check_options(const Options& options, std::int64_t classes);

// Refuses those whose Hessian may have a negative diagonal.
void check_has_hessian(Divergence divergence);

struct CountedRows {
  double weight = 0;            // the sum of the weights (1 without weights) of the rows that count
  bool all_have_class = false;  // true only if every row was seen to have a class index
};
// Refuses the first row whose alpha, tau, weight or label is not valid, or whose label or teacher is needed
// but absent. one_row: messages say "label", not "labels[0]". The numbers of soft labels are not checked.
CountedRows check_rows(const AnyView& student, const Labels& labels, const Options& options,
                       const char* student_name, bool has_teacher, bool one_row);
// Says what is wrong with a row of soft labels.
[[noreturn]] void refuse_probabilities(const AnyView& probabilities, std::int64_t row, bool has_teacher);

}  // namespace kdloss
