// Words of CUDA C beyond tinygan's emulator.h that CuPy's own kernels use: build.py puts this text behind that header.

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <limits>

#define __CUDACC_RTC__ 1
#define __CUDACC_VER_MAJOR__ 13

template <class T> static T atomicCAS(T* p, std::common_type_t<T> expected, std::common_type_t<T> v) {
    T old = *p;
    if (old == expected) *p = v;
    return old;
}
template <class T> static T atomicSub(T* p, std::common_type_t<T> v) { T old = *p; *p = old - v; return old; }
template <class T> static T atomicAnd(T* p, std::common_type_t<T> v) { T old = *p; *p = old & v; return old; }
template <class T> static T atomicOr(T* p, std::common_type_t<T> v) { T old = *p; *p = old | v; return old; }
template <class T> static T atomicXor(T* p, std::common_type_t<T> v) { T old = *p; *p = old ^ v; return old; }

static inline long long __double_as_longlong(double x) { return host_bits<long long>(x); }
static inline double __longlong_as_double(long long x) { return host_bits<double>(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static inline int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }

using std::acos; using std::acosh; using std::asin; using std::asinh; using std::atan; using std::atan2;
using std::atanh; using std::cbrt; using std::copysign; using std::cosh; using std::erf; using std::exp2;
using std::expm1; using std::fmax; using std::fmin; using std::fmod; using std::frexp; using std::hypot;
using std::ldexp; using std::log10; using std::log1p; using std::log2; using std::modf; using std::nearbyint;
using std::nextafter; using std::rint; using std::round; using std::signbit; using std::sinh; using std::tan;
using std::trunc;

// As much of a complex number as the sources of variances name; no kernel that computes with them compiles.
template <class T> struct complex { T x, y; };
template <class T> static T norm(complex<T> z) { return z.x * z.x + z.y * z.y; }
