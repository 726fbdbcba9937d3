// In the place of CUDA's header of this name, as far as CuPy's float16 needs it.
#pragma once

struct __half_raw { unsigned short x; };

struct half {
    _Float16 value;
    half() = default;
    template <class T, class = std::enable_if_t<std::is_arithmetic<T>::value>> half(T v) : value(_Float16(float(v))) {}
    half(__half_raw raw) : value(host_bits<_Float16>(raw.x)) {}
    operator float() const { return float(value); }
    operator __half_raw() const { return {host_bits<unsigned short>(value)}; }
};
static inline unsigned short __half_as_ushort(half h) { return host_bits<unsigned short>(h.value); }
static inline half __ushort_as_half(unsigned short bits) { return __half_raw{bits}; }
