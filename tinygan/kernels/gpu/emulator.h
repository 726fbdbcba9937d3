// CUDA C on the processor: what a kernel file needs so that g++ can compile it and a plain program can run it.
//
// emulator.py puts this text in front of a kernel file and one line per kernel behind it. The blocks of a grid run one
// after another. The threads of a block run in one of two ways:
//   - a kernel that never waits: each thread from start to end, in a loop. Fast, and a debugger can follow it.
//   - a kernel whose threads wait for each other: each thread has a separate stack (a fiber). It runs until it comes
//     to a barrier, another one goes on, and the barrier opens when the last thread has come.
// Nothing ever runs at the same time as anything else, so a race shows only as a dependence on the order of the
// threads. That is what `host::reversed` is for: a correct kernel gives the same result in both orders.

#include <setjmp.h>
#include <ucontext.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

// ---- the words of CUDA C ----------------------------------------------------------------------------------------

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...)
// All shared arrays lie side by side in one section of the library, so that one fill reaches them all.
#define __shared__ static __attribute__((section("cuda_shared")))

extern char __start_cuda_shared[] __attribute__((weak, visibility("hidden")));
extern char __stop_cuda_shared[] __attribute__((weak, visibility("hidden")));

struct uint3 { unsigned x, y, z; };
struct dim3 {
    unsigned x, y, z;
    dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};

#define HOST_VECTORS(type, name, align2, align4)                                                                \
    struct __attribute__((aligned(align2))) name##2 { type x, y; };                                             \
    struct name##3 { type x, y, z; };                                                                           \
    struct __attribute__((aligned(align4))) name##4 { type x, y, z, w; };                                       \
    static inline name##2 make_##name##2(type x, type y) { return {x, y}; }                                     \
    static inline name##3 make_##name##3(type x, type y, type z) { return {x, y, z}; }                          \
    static inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }
HOST_VECTORS(float, float, 8, 16)
HOST_VECTORS(int, int, 8, 16)
HOST_VECTORS(unsigned char, uchar, 2, 4)
struct __attribute__((aligned(8))) uint2 { unsigned x, y; };
struct __attribute__((aligned(16))) uint4 { unsigned x, y, z, w; };
struct __attribute__((aligned(16))) double2 { double x, y; };
static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static inline uint3 make_uint3(unsigned x, unsigned y, unsigned z) { return {x, y, z}; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
static inline double2 make_double2(double x, double y) { return {x, y}; }
#undef HOST_VECTORS

static dim3 gridDim, blockDim;
static uint3 blockIdx, threadIdx;
static const int warpSize = 32;

// ---- running a grid ---------------------------------------------------------------------------------------------

namespace host {

enum Outcome { DONE = 0, DIVERGED = 1, STUCK = 2, BARRIER_IN_LOOP = 3, STACK_OVERFLOW = 4, THROWN = 5 };

struct Fiber {
    ucontext_t context;
    jmp_buf resume;
    uint3 index;
    unsigned number;  // within the block
    int line;         // of the barrier it waits at
    bool started, done, waiting;
};

struct Warp {
    unsigned alive, waiting;  // one bit per lane
    unsigned mask[32];        // whom each waiting lane waits for
    int line[32];
};

struct BarrierInLoop { int line; };

#if defined(__SANITIZE_ADDRESS__)
const size_t STACK = 256 * 1024;  // checked code has large frames
#else
const size_t STACK = 64 * 1024;
#endif
const unsigned long long CANARY = 0x5afe57ac5afe57acull;

static std::vector<Fiber> fibers;
static std::vector<Warp> warps;
static std::vector<unsigned long long> lanes;  // what each thread offers to the others in a shuffle
static char* stacks;
static size_t stack_count;
static Fiber* current;
static unsigned alive, waiting;  // of the block
static int block_line;
static int outcome, where[2];
static bool reversed, in_fibers, moved, failed;
static ucontext_t scheduler;
static jmp_buf back;
static void (*body)(void*);
static void* body_argument;

static void diverge(int first, int second) { outcome = DIVERGED; where[0] = first; where[1] = second; }

// Switching. swapcontext makes a system call for the signal mask at every switch; setjmp and longjmp do not, and take
// a tenth of the time. AddressSanitizer follows a change of stacks only where swapcontext makes it.
static void switch_back() {
#if defined(__SANITIZE_ADDRESS__)
    swapcontext(&current->context, &scheduler);
#else
    if (!_setjmp(current->resume)) _longjmp(back, 1);
#endif
}

static void switch_to(Fiber& fiber) {
    current = &fiber;
    threadIdx = fiber.index;
#if defined(__SANITIZE_ADDRESS__)
    fiber.started = true;
    swapcontext(&scheduler, &fiber.context);
#else
    if (!_setjmp(back)) {
        if (fiber.started) _longjmp(fiber.resume, 1);
        fiber.started = true;
        setcontext(&fiber.context);  // the first time only
    }
#endif
}

static void open_block() {
    if (!alive || waiting != alive) return;
    waiting = 0;
    for (Fiber& fiber : fibers) if (!fiber.done) fiber.waiting = false;
}

static void open_warp(Warp& warp, unsigned first_thread) {
    for (unsigned left = warp.waiting; left;) {
        unsigned mask = warp.mask[__builtin_ctz(left)];
        if ((warp.waiting & mask) == (warp.alive & mask)) {
            warp.waiting &= ~mask;
            for (unsigned lane = 0; lane < 32; ++lane)
                if (mask >> lane & 1 && first_thread + lane < fibers.size())
                    fibers[first_thread + lane].waiting = false;
        }
        left &= ~mask;
    }
}

static void sleep_until_opened(int line) {
    current->line = line;
    while (current->waiting || outcome != DONE) switch_back();  // after a failure no thread goes on
}

static void wait_block(int line) {
    if (!in_fibers) throw BarrierInLoop{line};
    if (waiting && block_line != line) diverge(block_line, line);
    block_line = line;
    ++waiting;
    current->waiting = true;
    open_block();
    sleep_until_opened(line);
}

static void wait_warp(unsigned mask, int line) {
    if (!in_fibers) throw BarrierInLoop{line};
    unsigned lane = current->number & 31, bit = 1u << lane;
    Warp& warp = warps[current->number / 32];
    if (!(mask & bit)) diverge(line, line);  // waits for others and is not among them
    if (unsigned others = warp.waiting & mask) {
        unsigned other = __builtin_ctz(others);
        if (warp.mask[other] != mask || warp.line[other] != line) diverge(warp.line[other], line);
    }
    warp.waiting |= bit;
    warp.mask[lane] = mask;
    warp.line[lane] = line;
    current->waiting = true;
    if (outcome == DONE) open_warp(warp, current->number & ~31u);
    sleep_until_opened(line);
}

// A fiber lives on from block to block: starting one anew costs more than most threads' work.
static void fiber_main() {
    for (;;) {
        body(body_argument);
        Fiber& fiber = *current;
        fiber.done = true;
        moved = true;
        --alive;
        open_block();  // a thread that has ended counts as arrived
        Warp& warp = warps[fiber.number / 32];
        warp.alive &= ~(1u << (fiber.number & 31));
        open_warp(warp, fiber.number & ~31u);
        while (current->done) switch_back();
    }
}

static void prepare_fibers(unsigned count) {
    if (count > stack_count) {
        std::free(stacks);
        stacks = static_cast<char*>(std::malloc(count * STACK));
        stack_count = stacks ? count : 0;
        if (!stacks) { outcome = STACK_OVERFLOW; return; }
        fibers.clear();
    }
    // Fibers of the last launch will do, if they all came to their end and have the same places in a block.
    static dim3 last;
    bool same = last.x == blockDim.x && last.y == blockDim.y && last.z == blockDim.z;
    last = blockDim;
    if (same && fibers.size() == count && !failed) return;
    fibers.assign(count, Fiber{});  // contexts hold pointers into themselves, so they are made where they stay
    for (unsigned i = 0; i < count; ++i) {
        char* stack = stacks + i * STACK;
        std::memcpy(stack, &CANARY, sizeof CANARY);
        Fiber& fiber = fibers[i];
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = stack + 64;
        fiber.context.uc_stack.ss_size = STACK - 64;
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, fiber_main, 0);
        fiber.number = i;
        fiber.index = {i % blockDim.x, i / blockDim.x % blockDim.y, i / (blockDim.x * blockDim.y)};
    }
}

static void run_block_of_fibers() {
    unsigned count = fibers.size();
    alive = count;
    waiting = 0;
    warps.assign((count + 31) / 32, Warp{});
    for (Fiber& fiber : fibers) {
        fiber.done = fiber.waiting = false;
        warps[fiber.number / 32].alive |= 1u << (fiber.number & 31);
    }
    while (alive && outcome == DONE) {
        moved = false;
        for (unsigned i = 0; i < count && outcome == DONE; ++i) {
            Fiber& fiber = fibers[reversed ? count - 1 - i : i];
            if (fiber.done || fiber.waiting) continue;
            moved = true;
            switch_to(fiber);
        }
        if (!moved && outcome == DONE) {  // everybody waits at a barrier that cannot open
            outcome = STUCK;
            for (Fiber& fiber : fibers) if (!fiber.done) { where[where[0] && fiber.line != where[0]] = fiber.line; }
        }
    }
    for (unsigned i = 0; i < count; ++i)
        if (std::memcmp(stacks + i * STACK, &CANARY, sizeof CANARY)) outcome = STACK_OVERFLOW;
}

// 0xff in every byte is NaN for a float and -1 for an int: what was not written shows in the result.
static void __attribute__((no_sanitize("address"), noinline)) poison_shared() {
    for (char* p = __start_cuda_shared; p != __stop_cuda_shared; ++p) *static_cast<volatile char*>(p) = char(0xff);
}

static void fill_shared() {
    if (__start_cuda_shared == nullptr) return;
#if defined(__SANITIZE_ADDRESS__)
    poison_shared();  // the guard zones between the arrays are filled too, which memset would be stopped for
#else
    std::memset(__start_cuda_shared, 0xff, __stop_cuda_shared - __start_cuda_shared);
#endif
}

template <class Call>
static void run_block_in_a_loop(Call& call) {
    unsigned count = blockDim.x * blockDim.y * blockDim.z;
    for (unsigned i = 0; i < count; ++i) {
        unsigned n = reversed ? count - 1 - i : i;
        threadIdx = {n % blockDim.x, n / blockDim.x % blockDim.y, n / (blockDim.x * blockDim.y)};
        call();
    }
}

template <class Call>
static void run_grid(Call& call, bool use_shared) {
    unsigned long long blocks = 1ull * gridDim.x * gridDim.y * gridDim.z;
    if (in_fibers) {
        body = [](void* c) { (*static_cast<Call*>(c))(); };
        body_argument = &call;
        unsigned count = blockDim.x * blockDim.y * blockDim.z;
        lanes.assign((count + 31) / 32 * 32, ~0ull);
        prepare_fibers(count);
    }
    for (unsigned long long i = 0; i < blocks && outcome == DONE; ++i) {
        unsigned long long n = reversed ? blocks - 1 - i : i;
        blockIdx = {unsigned(n % gridDim.x), unsigned(n / gridDim.x % gridDim.y),
                    unsigned(n / (1ull * gridDim.x * gridDim.y))};
        if (use_shared) fill_shared();
        if (in_fibers) run_block_of_fibers();
        else run_block_in_a_loop(call);
    }
}

// dims: grid x, y, z, block x, y, z, reversed, fibers, uses shared memory. report: the two lines of an outcome.
template <class... A>
static int launch(void (*kernel)(A...), const unsigned* dims, void** args, int* report) {
    std::tuple<std::remove_const_t<A>...> values;
    int i = 0;
    std::apply([&](auto&... value) { (std::memcpy((void*)&value, args[i++], sizeof value), ...); }, values);
    auto call = [&] { std::apply(kernel, values); };
    gridDim = dim3(dims[0], dims[1], dims[2]);
    blockDim = dim3(dims[3], dims[4], dims[5]);
    reversed = dims[6];
    in_fibers = dims[7];
    outcome = DONE;
    where[0] = where[1] = 0;
    try {
        run_grid(call, dims[8]);
    } catch (const BarrierInLoop& barrier) {
        outcome = BARRIER_IN_LOOP;
        where[0] = barrier.line;
    } catch (const std::exception&) {
        outcome = THROWN;
    }
    if (in_fibers) failed = outcome != DONE;
    report[0] = where[0];
    report[1] = where[1];
    return outcome;
}

// For each parameter: bytes, whether it is a pointer, bytes of the number it points to (0: not a number), 1 for
// floating point. Returns how many parameters there are.
template <class T>
static void describe_one(int* out) {
    using Target = std::remove_cv_t<std::remove_pointer_t<T>>;
    out[0] = sizeof(T);
    out[1] = std::is_pointer<T>::value;
    out[2] = 0;
    if constexpr (std::is_pointer<T>::value && std::is_arithmetic<Target>::value) out[2] = sizeof(Target);
    out[3] = std::is_floating_point<Target>::value;
}

template <class... A>
static int describe(void (*)(A...), int* out) {
    int at = -4;
    (describe_one<A>(out + (at += 4)), ...);
    return sizeof...(A);
}

// The value of another lane. A lane that takes no part gives NaN, or -1.
template <class T>
static T exchange(unsigned mask, T value, unsigned source, int line) {
    static_assert(sizeof(T) <= 8, "a shuffle moves at most 8 bytes");
    if (!in_fibers) throw BarrierInLoop{line};
    unsigned me = current->number, first = me & ~31u;
    std::memcpy(&lanes[me], &value, sizeof value);
    wait_warp(mask, line);
    T result;
    if ((warps[me / 32].alive & mask) >> source & 1) std::memcpy(&result, &lanes[first + source], sizeof result);
    else std::memset((void*)&result, 0xff, sizeof result);
    wait_warp(mask, line);  // no lane offers its next value before all have read this one
    return result;
}

static inline unsigned my_lane() { return in_fibers ? current->number & 31 : 0; }
static inline unsigned first_of(unsigned lane, int width) { return lane & ~(unsigned(width) - 1); }

}  // namespace host

// ---- waiting, shuffles, atomics ---------------------------------------------------------------------------------

// __builtin_LINE() as a default value is the line of the caller.
static inline void __syncthreads(int line = __builtin_LINE()) { host::wait_block(line); }
static inline void __syncwarp(unsigned mask = 0xffffffffu, int line = __builtin_LINE()) { host::wait_warp(mask, line); }
static inline void __threadfence() {}
static inline void __threadfence_block() {}

template <class T>
static T __shfl_sync(unsigned mask, T v, int source, int width = 32, int line = __builtin_LINE()) {
    unsigned first = host::first_of(host::my_lane(), width);
    return host::exchange(mask, v, first + (unsigned(source) & (unsigned(width) - 1)), line);
}
template <class T>
static T __shfl_down_sync(unsigned mask, T v, unsigned delta, int width = 32, int line = __builtin_LINE()) {
    unsigned lane = host::my_lane(), end = host::first_of(lane, width) + width;
    return host::exchange(mask, v, lane + delta < end ? lane + delta : lane, line);
}
template <class T>
static T __shfl_up_sync(unsigned mask, T v, unsigned delta, int width = 32, int line = __builtin_LINE()) {
    unsigned lane = host::my_lane(), first = host::first_of(lane, width);
    return host::exchange(mask, v, lane >= first + delta ? lane - delta : lane, line);
}
template <class T>
static T __shfl_xor_sync(unsigned mask, T v, int bits, int width = 32, int line = __builtin_LINE()) {
    unsigned lane = host::my_lane(), end = host::first_of(lane, width) + width, source = lane ^ unsigned(bits);
    return host::exchange(mask, v, source < end ? source : lane, line);
}

template <class T> static T atomicAdd(T* p, std::common_type_t<T> v) { T old = *p; *p = old + v; return old; }
template <class T> static T atomicMax(T* p, std::common_type_t<T> v) { T old = *p; *p = old < v ? v : old; return old; }
template <class T> static T atomicMin(T* p, std::common_type_t<T> v) { T old = *p; *p = v < old ? v : old; return old; }
template <class T> static T atomicExch(T* p, std::common_type_t<T> v) { T old = *p; *p = v; return old; }

// ---- arithmetic -------------------------------------------------------------------------------------------------

// CUDA has these for float too in the global namespace, where C has them for double or int only.
using std::abs; using std::ceil; using std::cos; using std::exp; using std::fabs; using std::floor; using std::isfinite;
using std::isinf; using std::isnan; using std::log; using std::pow; using std::sin; using std::sqrt; using std::tanh;

template <class A, class B> static constexpr std::common_type_t<A, B> min(A a, B b) {
    using T = std::common_type_t<A, B>;
    if constexpr (std::is_floating_point<T>::value) return std::fmin(T(a), T(b));  // as on the GPU: NaN loses
    else return T(b) < T(a) ? T(b) : T(a);
}
template <class A, class B> static constexpr std::common_type_t<A, B> max(A a, B b) {
    using T = std::common_type_t<A, B>;
    if constexpr (std::is_floating_point<T>::value) return std::fmax(T(a), T(b));
    else return T(a) < T(b) ? T(b) : T(a);
}

template <class T> static inline T __ldg(const T* p) { return *p; }
static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }
static inline float __saturatef(float x) { return fminf(fmaxf(x, 0.0f), 1.0f); }

// The fast ones are the exact ones here: a kernel must not rest on their errors. glibc has some of these names itself,
// so macros take them over.
#define __expf(x) expf(x)
#define __exp10f(x) exp10f(x)
#define __logf(x) logf(x)
#define __log2f(x) log2f(x)
#define __log10f(x) log10f(x)
#define __powf(x, y) powf(x, y)
#define __sinf(x) sinf(x)
#define __cosf(x) cosf(x)
#define __tanf(x) tanf(x)
static inline float __fdividef(float a, float b) { return a / b; }

// Compiled with -ffp-contract=off, so each of these rounds by itself.
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __frcp_rn(float a) { return 1.0f / a; }
static inline float __fsqrt_rn(float a) { return sqrtf(a); }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }

static inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned(1ull * a * b >> 32); }
static inline int __mulhi(int a, int b) { return int((long long)a * b >> 32); }
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
static inline int __ffs(int x) { return __builtin_ffs(x); }

template <class To, class From> static inline To host_bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "same bits, another type");
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}
static inline unsigned __float_as_uint(float x) { return host_bits<unsigned>(x); }
static inline float __uint_as_float(unsigned x) { return host_bits<float>(x); }
static inline int __float_as_int(float x) { return host_bits<int>(x); }
static inline float __int_as_float(int x) { return host_bits<float>(x); }
static inline float __int2float_rn(int x) { return float(x); }
static inline float __uint2float_rn(unsigned x) { return float(x); }
static inline int __float2int_rz(float x) { return int(x); }
static inline int __float2int_rn(float x) { return int(nearbyintf(x)); }
static inline int __float2int_rd(float x) { return int(floorf(x)); }
