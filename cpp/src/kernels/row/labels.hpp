// Labels, looked at many at a time.
#pragma once

#include "../../kernel_table.hpp"
#include "../simd/lanes.hpp"

namespace kdloss::KDLOSS_ISA {
namespace {

// One label: read once, whatever the compiler makes of its uses.
KDLOSS_INLINE std::int64_t read_label(const Labels& labels, std::int64_t i) {
  return labels.data != nullptr ? __atomic_load_n(labels.data + i * labels.stride, __ATOMIC_RELAXED)
                                : __atomic_load_n(labels.data32 + i * labels.stride, __ATOMIC_RELAXED);
}

// Calls f(indices, stride) with the labels of one type, from the given one. Where they lie side by side the
// compiler knows the stride, and reads several at a time.
template <class F>
KDLOSS_INLINE auto with_indices(const Labels& labels, std::int64_t first, F&& f) {
  const auto typed = [&](const auto* y) KDLOSS_INLINE_LAMBDA {
    constexpr std::int64_t one = 1;
    return labels.stride == 1 ? f(y + first, one) : f(y + first * labels.stride, labels.stride);
  };
  return labels.data != nullptr ? typed(labels.data) : typed(labels.data32);
}

// Whether all of them are class indices.
bool are_classes(const Labels& labels, std::int64_t classes) {
  return with_indices(labels, 0, [&](const auto* y, std::int64_t stride) KDLOSS_INLINE_LAMBDA {
    const auto last = static_cast<std::uint64_t>(classes - 1);
    std::uint64_t outside = 0;  // the sign of a label, or of what is left up to the last class
    for (std::int64_t i = 0; i < labels.count; ++i) {
      const auto label = static_cast<std::uint64_t>(static_cast<std::int64_t>(y[i * stride]));
      outside |= label | (last - label);
    }
    return static_cast<std::int64_t>(outside) >= 0;
  });
}

}  // namespace
}  // namespace kdloss::KDLOSS_ISA
