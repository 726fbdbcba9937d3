// Words of CUDA C beyond tinygan's emulator.h that CuPy's own kernels use: build.py puts this text behind that header.

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <limits>

#define __CUDACC_RTC__ 1

template <class T> static T atomicCAS(T* p, std::common_type_t<T> expected, std::common_type_t<T> v) {
    T old = *p;
    if (old == expected) *p = v;
    return old;
}
template <class T> static T atomicSub(T* p, std::common_type_t<T> v) { T old = *p; *p = old - v; return old; }
template <class T> static T atomicAnd(T* p, std::common_type_t<T> v) { T old = *p; *p = old & v; return old; }
template <class T> static T atomicOr(T* p, std::common_type_t<T> v) { T old = *p; *p = old | v; return old; }
template <class T> static T atomicXor(T* p, std::common_type_t<T> v) { T old = *p; *p = old ^ v; return old; }

static inline unsigned short __float2half_rn(float x) { return host_bits<unsigned short>(_Float16(x)); }
static inline float __half2float(unsigned short x) { return float(host_bits<_Float16>(x)); }
static inline long long __double_as_longlong(double x) { return host_bits<long long>(x); }
static inline double __longlong_as_double(long long x) { return host_bits<double>(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static inline int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }

using std::acos; using std::acosh; using std::asin; using std::asinh; using std::atan; using std::atan2; using std::atanh;
using std::cbrt; using std::copysign; using std::cosh; using std::erf; using std::exp2; using std::expm1; using std::fmax;
using std::fmin; using std::fmod; using std::frexp; using std::hypot; using std::ldexp; using std::log10; using std::log1p;
using std::log2; using std::modf; using std::nearbyint; using std::nextafter; using std::rint; using std::round; using std::signbit;
using std::sinh; using std::tan; using std::trunc;

// CuPy's headers for complex numbers need more of CUDA than is here; a kernel that computes with them does not compile.
template <class T> struct complex;
