// Sixteen floats or eight doubles that move together, whatever the instruction set.
//
// A Lanes value is always 64 bytes, held in as many native vectors as the target needs (one with AVX-512,
// two with AVX2, four with SSE2 or NEON). Because the number of lanes never changes, neither does the order
// in which sums are taken, and a result has the same bits on every instruction set with a fused multiply-add.
// Lanes<T, P> is as many native vectors as it says: Lanes<T, 1>, or Vector<T>, is one part of a Lanes.
#pragma once

#include <cstdint>

#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

namespace kdloss::KDLOSS_ISA {
namespace {  // internal linkage: nothing compiled here may be shared with another instruction set's object

#define KDLOSS_INLINE inline __attribute__((always_inline))
// Stands after the parameters of a lambda that is a loop's body: without it GCC may call the lambda.
#define KDLOSS_INLINE_LAMBDA __attribute__((always_inline))

#if defined(__AVX512F__)
constexpr int kNativeBytes = 64;
#elif defined(__AVX2__)
constexpr int kNativeBytes = 32;
#else
constexpr int kNativeBytes = 16;
#endif

// Whether a multiplication and an addition are rounded once.
#if defined(__FMA__) || defined(__ARM_NEON)
constexpr bool kFused = true;
#else
constexpr bool kFused = false;
#endif

// A number known at compile time, for a lambda: x.value.
template <auto N>
struct Constant {
  static constexpr auto value = N;
};

template <class T>
struct Bits;
template <>
struct Bits<float> {
  using Int = std::int32_t;
  using Uint = std::uint32_t;
};
template <>
struct Bits<double> {
  using Int = std::int64_t;
  using Uint = std::uint64_t;
};

constexpr int kParts = 64 / kNativeBytes;
template <class T, int P = kParts>
struct Lanes {
  static constexpr int kCount = P * kNativeBytes / static_cast<int>(sizeof(T));
  using Int = typename Bits<T>::Int;
  using Uint = typename Bits<T>::Uint;
  typedef T Native __attribute__((vector_size(kNativeBytes)));
  typedef Int NativeInt __attribute__((vector_size(kNativeBytes)));
  typedef Uint NativeUint __attribute__((vector_size(kNativeBytes)));
  Native part[P];

  Lanes() = default;
  KDLOSS_INLINE Lanes(T x) {
    for (int i = 0; i < P; ++i) part[i] = x - Native{};  // the vector syntax's broadcast
  }
};

// ---- The few operations that the generic vector syntax does not have

#define KDLOSS_NATIVE(Float, Double, mm)                                                           \
  KDLOSS_INLINE Float native_fma(Float a, Float b, Float c) { return mm##_fmadd_ps(a, b, c); }     \
  KDLOSS_INLINE Double native_fma(Double a, Double b, Double c) { return mm##_fmadd_pd(a, b, c); } \
  KDLOSS_INLINE Float native_max(Float a, Float b) { return mm##_max_ps(a, b); }                   \
  KDLOSS_INLINE Double native_max(Double a, Double b) { return mm##_max_pd(a, b); }                \
  KDLOSS_INLINE Float native_min(Float a, Float b) { return mm##_min_ps(a, b); }                   \
  KDLOSS_INLINE Double native_min(Double a, Double b) { return mm##_min_pd(a, b); }
#if defined(__AVX512F__)
KDLOSS_NATIVE(__m512, __m512d, _mm512)
#elif defined(__AVX2__)
KDLOSS_NATIVE(__m256, __m256d, _mm256)
#else
template <class N>
KDLOSS_INLINE N native_max(N a, N b) {
  return a > b ? a : b;
}
template <class N>
KDLOSS_INLINE N native_min(N a, N b) {
  return a < b ? a : b;
}
#if defined(__ARM_NEON)
KDLOSS_INLINE float32x4_t native_fma(float32x4_t a, float32x4_t b, float32x4_t c) {
  return vfmaq_f32(c, a, b);
}
KDLOSS_INLINE float64x2_t native_fma(float64x2_t a, float64x2_t b, float64x2_t c) {
  return vfmaq_f64(c, a, b);
}
#else
// The x86-64 baseline has no fused multiply-add, and a library call per element would cost more than it
// gives.
template <class N>
KDLOSS_INLINE N native_fma(N a, N b, N c) {
  return a * b + c;
}
#endif
#endif

// ---- Arithmetic

#define KDLOSS_EACH_PART for (int i = 0; i < P; ++i)
#define KDLOSS_BINARY(op)                                               \
  template <class T, int P>                                             \
  KDLOSS_INLINE Lanes<T, P> operator op(Lanes<T, P> a, Lanes<T, P> b) { \
    Lanes<T, P> r;                                                      \
    KDLOSS_EACH_PART r.part[i] = a.part[i] op b.part[i];                \
    return r;                                                           \
  }
KDLOSS_BINARY(+)
KDLOSS_BINARY(-)
KDLOSS_BINARY(*)
KDLOSS_BINARY(/)
#undef KDLOSS_BINARY

// a * b + c, rounded once where the instruction set can.
template <class T, int P>
KDLOSS_INLINE Lanes<T, P> fma(Lanes<T, P> a, Lanes<T, P> b, Lanes<T, P> c) {
  Lanes<T, P> r;
  KDLOSS_EACH_PART r.part[i] = native_fma(a.part[i], b.part[i], c.part[i]);
  return r;
}
// a * b - product, exactly, where product = a * b rounded. Without a fused multiply-add the factors are cut
// in halves, whose products are exact.
template <class T, int P>
KDLOSS_INLINE Lanes<T, P> upper_half(Lanes<T, P> x) {
  using Uint = typename Lanes<T, P>::Uint;
  constexpr Uint kKeep = ~Uint(0) << (sizeof(T) == 4 ? 12 : 27);
  KDLOSS_EACH_PART x.part[i] =
      (typename Lanes<T, P>::Native)((typename Lanes<T, P>::NativeUint)x.part[i] & kKeep);
  return x;
}
template <class T, int P>
KDLOSS_INLINE Lanes<T, P> product_error(Lanes<T, P> a, Lanes<T, P> b, Lanes<T, P> product) {
  if constexpr (kFused) return fma(a, b, Lanes<T, P>(0) - product);
  const Lanes<T, P> a1 = upper_half(a), b1 = upper_half(b), a2 = a - a1, b2 = b - b1;
  return ((a1 * b1 - product) + (a1 * b2 + a2 * b1)) + a2 * b2;
}
// Where either operand is NaN these give the second, as x86's instructions do.
template <class T, int P>
KDLOSS_INLINE Lanes<T, P> max(Lanes<T, P> a, Lanes<T, P> b) {
  Lanes<T, P> r;
  KDLOSS_EACH_PART r.part[i] = native_max(a.part[i], b.part[i]);
  return r;
}
template <class T, int P>
KDLOSS_INLINE Lanes<T, P> min(Lanes<T, P> a, Lanes<T, P> b) {
  Lanes<T, P> r;
  KDLOSS_EACH_PART r.part[i] = native_min(a.part[i], b.part[i]);
  return r;
}

// ---- Masks: one bit pattern of all ones or all zeros a lane

template <class T, int P = kParts>
struct Mask {
  typename Lanes<T, P>::NativeInt part[P];
};

#define KDLOSS_COMPARE(op)                                             \
  template <class T, int P>                                            \
  KDLOSS_INLINE Mask<T, P> operator op(Lanes<T, P> a, Lanes<T, P> b) { \
    Mask<T, P> r;                                                      \
    KDLOSS_EACH_PART r.part[i] = a.part[i] op b.part[i];               \
    return r;                                                          \
  }
KDLOSS_COMPARE(<)
KDLOSS_COMPARE(<=)
KDLOSS_COMPARE(==)
#undef KDLOSS_COMPARE
#define KDLOSS_LOGIC(op)                                             \
  template <class T, int P>                                          \
  KDLOSS_INLINE Mask<T, P> operator op(Mask<T, P> a, Mask<T, P> b) { \
    Mask<T, P> r;                                                    \
    KDLOSS_EACH_PART r.part[i] = a.part[i] op b.part[i];             \
    return r;                                                        \
  }
KDLOSS_LOGIC(&)
KDLOSS_LOGIC(|)
#undef KDLOSS_LOGIC
template <class T, int P>
KDLOSS_INLINE Mask<T, P> operator~(Mask<T, P> a) {
  KDLOSS_EACH_PART a.part[i] = ~a.part[i];
  return a;
}
template <class T, int P>
KDLOSS_INLINE Lanes<T, P> where(Mask<T, P> m, Lanes<T, P> yes, Lanes<T, P> no) {
  Lanes<T, P> r;
  KDLOSS_EACH_PART r.part[i] = m.part[i] ? yes.part[i] : no.part[i];
  return r;
}
template <class T, int P>
KDLOSS_INLINE bool any(Mask<T, P> m) {
  auto some = m.part[0];
  for (int i = 1; i < P; ++i) some |= m.part[i];
#if defined(__AVX512F__)
  return _mm512_test_epi64_mask((__m512i)some, (__m512i)some) != 0;
#elif defined(__AVX2__)
  return _mm256_testz_si256((__m256i)some, (__m256i)some) == 0;
#else
  typedef std::int64_t Pair __attribute__((vector_size(16)));
  return (((Pair)some)[0] | ((Pair)some)[1]) != 0;
#endif
}
// The mask that is true, or false, in all lanes of a V.
template <class V>
KDLOSS_INLINE auto all_lanes(bool value) {
  return value ? V(0) == V(0) : V(0) < V(0);
}
template <class T, int P>
KDLOSS_INLINE Lanes<T, P> abs(Lanes<T, P> x) {
  using Uint = typename Lanes<T, P>::Uint;
  const Uint keep = static_cast<Uint>(~Uint(0)) >> 1;
  KDLOSS_EACH_PART x.part[i] =
      (typename Lanes<T, P>::Native)((typename Lanes<T, P>::NativeUint)x.part[i] & keep);
  return x;
}

// ---- Memory

// A native vector at any address. (GCC may split a memcpy into smaller stores, which the next load has to
// wait for.)
template <class T>
struct Loose {
  typedef T Vector __attribute__((vector_size(kNativeBytes), aligned(sizeof(T)), may_alias));
};
template <class T>
KDLOSS_INLINE typename Lanes<T>::Native load_native(const T* p) {
  return *reinterpret_cast<const typename Loose<T>::Vector*>(p);
}
template <class T>
KDLOSS_INLINE void store_native(T* p, typename Lanes<T>::Native v) {
  *reinterpret_cast<typename Loose<T>::Vector*>(p) = v;
}

template <int P = kParts, class T>
KDLOSS_INLINE Lanes<T, P> load(const T* p) {
  Lanes<T, P> r;
  KDLOSS_EACH_PART r.part[i] = load_native(p + i * (kNativeBytes / static_cast<int>(sizeof(T))));
  return r;
}
template <class T, int P>
KDLOSS_INLINE void store(T* p, Lanes<T, P> x) {
  KDLOSS_EACH_PART store_native(p + i * (kNativeBytes / static_cast<int>(sizeof(T))), x.part[i]);
}

// To a whole cache line of memory, past the caches; other processors see it after finish_stores().
template <class T>
KDLOSS_INLINE void store_past_caches(T* p, Lanes<T> x) {
  for (int i = 0; i < kParts; ++i) {
    T* const to = p + i * (kNativeBytes / static_cast<int>(sizeof(T)));
#if defined(__AVX512F__)
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to), (__m512i)x.part[i]);
#elif defined(__AVX2__)
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to), (__m256i)x.part[i]);
#elif defined(__SSE2__)
    _mm_stream_si128(reinterpret_cast<__m128i*>(to), (__m128i)x.part[i]);
#else
    store_native(to, x.part[i]);
#endif
  }
}
KDLOSS_INLINE void finish_stores() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

// One native vector: enough for a number of one row, of which a Lanes would hold needless copies.
template <class T>
using Vector = Lanes<T, 1>;

// The address so many elements from p, which may lie beyond p's array.
template <class T>
KDLOSS_INLINE T* moved_by(T* p, std::int64_t elements) {
  return reinterpret_cast<T*>(reinterpret_cast<std::uintptr_t>(p) +
                              static_cast<std::uintptr_t>(elements) * sizeof(T));
}
// Asks for the cache line that lies so far ahead, into L1 or into L2.
template <bool Writing = false, int Cache = 1, class T>
KDLOSS_INLINE void prefetch(const T* p, std::int64_t ahead) {
  __builtin_prefetch(moved_by(p, ahead), Writing, 4 - Cache);
}

// Widened to doubles, or rounded from them.
typedef float HalfOfFloats __attribute__((vector_size(kNativeBytes / 2), aligned(4), may_alias));
typedef double WholeOfDoubles __attribute__((vector_size(kNativeBytes), aligned(8), may_alias));
KDLOSS_INLINE void store_wide(double* p, Lanes<float> x) {
  alignas(64) float lanes[Lanes<float>::kCount];
  store(lanes, x);
  constexpr int n = kNativeBytes / 8;
  for (int i = 0; i < Lanes<float>::kCount; i += n)
    *reinterpret_cast<WholeOfDoubles*>(p + i) =
        __builtin_convertvector(*reinterpret_cast<const HalfOfFloats*>(lanes + i), WholeOfDoubles);
}
KDLOSS_INLINE void store_wide(double* p, Lanes<double> x) { store(p, x); }
KDLOSS_INLINE void load_narrow(const double* p, Lanes<float>& x) {
  alignas(64) float lanes[Lanes<float>::kCount];
  constexpr int n = kNativeBytes / 8;
  for (int i = 0; i < Lanes<float>::kCount; i += n)
    *reinterpret_cast<HalfOfFloats*>(lanes + i) =
        __builtin_convertvector(*reinterpret_cast<const WholeOfDoubles*>(p + i), HalfOfFloats);
  x = load(lanes);
}
KDLOSS_INLINE void load_narrow(const double* p, Lanes<double>& x) { x = load(p); }

// All lanes put together by op, always in the same order: halves onto halves.
template <class T, int P, class Op>
KDLOSS_INLINE T fold(Lanes<T, P> x, Op op) {
  typedef T Quarter __attribute__((vector_size(16)));
  constexpr int kQuarters = kNativeBytes / 16;
  for (int half = P / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) x.part[i] = op(x.part[i], x.part[i + half]);
  Quarter quarter[kQuarters];
  __builtin_memcpy(quarter, &x.part[0], kNativeBytes);
  for (int half = kQuarters / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) quarter[i] = op(quarter[i], quarter[i + half]);
  const Quarter q = quarter[0];
  if constexpr (sizeof(T) == 8)
    return op(q[0], q[1]);
  else
    return op(op(q[0], q[2]), op(q[1], q[3]));
}
template <class T>
KDLOSS_INLINE T sum(Lanes<T> x) {
  return fold(x, [](auto a, auto b) KDLOSS_INLINE_LAMBDA { return a + b; });
}
template <class T, int P>
KDLOSS_INLINE T largest(Lanes<T, P> x) {
  return fold(x, [](auto a, auto b) KDLOSS_INLINE_LAMBDA { return a > b ? a : b; });
}
template <class T>
KDLOSS_INLINE T smallest(Lanes<T> x) {
  return fold(x, [](auto a, auto b) KDLOSS_INLINE_LAMBDA { return a < b ? a : b; });
}

// A running sum can be off by half an ulp for each addition; of many equal terms it nearly is. So terms are
// added up in runs of this many, and a Total adds up the runs and the rounding error of each addition.
constexpr std::int64_t kRun = 8;
// Whether a run ends before the term at this place.
KDLOSS_INLINE bool run_ends(std::int64_t place) { return place % kRun == 0 && place != 0; }
template <class L>
struct Total {
  L sum = L(0), lost = L(0);
  KDLOSS_INLINE void add(L run) {
    const L next = sum + run;
    lost = lost + (run - (next - sum));
    sum = next;
  }
  // With the last run. (What is lost of an infinite sum is NaN.)
  KDLOSS_INLINE L with(L run) const { return sum + (lost + run); }
  KDLOSS_INLINE L with_or_infinite(L run) const {
    const L last = sum + run;
    return where(last - last == L(0), with(run), last);
  }
};

// One native vector of a Lanes or a Mask.
template <class T>
KDLOSS_INLINE Vector<T> part_of(const Lanes<T>& x, int i) {
  Vector<T> r;
  r.part[0] = x.part[i];
  return r;
}
template <class T>
KDLOSS_INLINE Mask<T, 1> part_of(const Mask<T>& x, int i) {
  return {{x.part[i]}};
}
template <class T>
KDLOSS_INLINE void set_part(Lanes<T>& x, int i, Vector<T> value) {
  x.part[i] = value.part[0];
}

template <class T, int P>
KDLOSS_INLINE T first(Lanes<T, P> x) {
  return x.part[0][0];
}
// 0, 1, 2, ...: which lane each is.
template <class T, int P = kParts>
KDLOSS_INLINE Lanes<T, P> lane_index() {
  alignas(64) static constexpr T index[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return load<P>(index);
}
template <class T, int P>
KDLOSS_INLINE Lanes<T, P> with_lane(Lanes<T, P> x, std::int64_t i, T value) {
  return where(lane_index<T, P>() == Lanes<T, P>(static_cast<T>(i)), Lanes<T, P>(value), x);
}
template <class T, int P>
KDLOSS_INLINE T lane(Lanes<T, P> x, std::int64_t i) {
  alignas(64) T lanes[Lanes<T, P>::kCount];
  store(lanes, x);
  return lanes[i];
}

}  // namespace
}  // namespace kdloss::KDLOSS_ISA
