// The GPU kernels of tinygan, in plain CUDA C without a single #include, so that NVRTC (which CuPy uses), nvcc and
// g++ all take this same text: on a machine without a GPU the tests compile it for seven GPUs and run it on the
// processor (emulator.py). Every kernel is defined in plain loops in reference.py (counter_*: in counter.py); the
// wrappers that check arguments and choose grids are in the .py files beside this one.
//
// Three habits hold throughout:
//   - Gather, never add from many sides: a thread owns an output and collects what belongs into it. No thread waits
//     for another, there are no atomics, and the same input gives the same bits.
//   - Grid-stride loops: a kernel is right for every grid, also one smaller than the work.
//   - Maps lie in memory as (channel, sample, row, column). A whole batch is then one matrix with a row per channel:
//     a convolution is one matrix product, and a sum per channel is a sum along a row.
// `order` names samples: slot s of a batch sorted by filter set holds sample order[s] (null: slot s is sample s).
// A kernel that lets its threads wait for each other has "sync" in its body; emulator.py goes by that.

#define THREADS 256  // threads of a block in the kernels that add up within a block; launch.py has the same number

#define EACH(i, total)                                                   \
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < (total);     \
         i += gridDim.x * blockDim.x)

// Sum of v over the THREADS threads of a block, always in the same order. Thread 0 gets it, and no other.
__device__ __forceinline__ float block_sum_sync(float v, float* shared)
{
    shared[threadIdx.x] = v;
    __syncthreads();
    for (int half = THREADS / 2; half > 0; half >>= 1) {
        if (threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
        __syncthreads();
    }
    return threadIdx.x == 0 ? shared[0] : 0.0f;
}

// ---- convolution: patches to columns and back -------------------------------------------------------------------

// big (B, N, H, W) -> col (B * kh * kw, count * h * w): under each pixel of the small map, the patch of the big one.
// A thread owns the patch of one channel, slot and small pixel; neighbours write neighbouring columns.
__device__ __forceinline__ void im2col_body(
    const float* __restrict__ big, const int* __restrict__ order, int first, float* __restrict__ col,
    int B, int N, int count, int H, int W, int h, int w, int kh, int kw, int sh, int sw, int ph, int pw)
{
    int columns = count * h * w;
    EACH(i, B * columns) {
        int x = i % w, rest = i / w;
        int y = rest % h;
        rest /= h;
        int s = rest % count, b = rest / count;
        int n = order ? order[first + s] : first + s;
        const float* map = big + (long long)(b * N + n) * H * W;
        float* out = col + (long long)b * kh * kw * columns + (s * h + y) * w + x;
        #pragma unroll
        for (int ki = 0; ki < kh; ++ki) {
            int Y = y * sh - ph + ki;
            #pragma unroll
            for (int kj = 0; kj < kw; ++kj) {
                int X = x * sw - pw + kj;
                bool inside = Y >= 0 && Y < H && X >= 0 && X < W;
                *out = inside ? map[Y * W + X] : 0.0f;
                out += columns;
            }
        }
    }
}

// The transpose: col (B * kh * kw, count * h * w) -> big (B, N, H, W). A thread owns a pixel of the big map and adds
// up the taps of all patches that cover it, for k = 4 and stride 2 at most two times two.
__device__ __forceinline__ void col2im_body(
    const float* __restrict__ col, const int* __restrict__ order, int first, float* __restrict__ big,
    int B, int N, int count, int H, int W, int h, int w, int kh, int kw, int sh, int sw, int ph, int pw)
{
    int columns = count * h * w;
    EACH(i, B * count * H * W) {
        int X = i % W, rest = i / W;
        int Y = rest % H;
        rest /= H;
        int s = rest % count, b = rest / count;
        const float* patches = col + (long long)b * kh * kw * columns + s * h * w;
        float sum = 0.0f;
        #pragma unroll
        for (int ki = (Y + ph) % sh; ki < kh; ki += sh) {
            int above = Y + ph - ki, y = above / sh;
            if (above < 0 || y >= h) continue;
            #pragma unroll
            for (int kj = (X + pw) % sw; kj < kw; kj += sw) {
                int left = X + pw - kj, x = left / sw;
                if (left < 0 || x >= w) continue;
                sum += patches[(long long)(ki * kw + kj) * columns + y * w + x];
            }
        }
        int n = order ? order[first + s] : first + s;
        big[((long long)(b * N + n) * H + Y) * W + X] = sum;
    }
}

// One kernel for any kernel size, stride and padding, and two whose geometry is constant, so that the compiler can
// unroll the taps and divide by shifting. They take the same arguments.
extern "C" __global__ void im2col_any(
    const float* __restrict__ big, const int* __restrict__ order, int first, float* __restrict__ col,
    int B, int N, int count, int H, int W, int h, int w, int kh, int kw, int sh, int sw, int ph, int pw)
{
    im2col_body(big, order, first, col, B, N, count, H, W, h, w, kh, kw, sh, sw, ph, pw);
}

extern "C" __global__ void im2col_k4s2p1(
    const float* __restrict__ big, const int* __restrict__ order, int first, float* __restrict__ col,
    int B, int N, int count, int H, int W, int h, int w, int kh, int kw, int sh, int sw, int ph, int pw)
{
    im2col_body(big, order, first, col, B, N, count, H, W, h, w, 4, 4, 2, 2, 1, 1);
}

extern "C" __global__ void im2col_k3s1p1(
    const float* __restrict__ big, const int* __restrict__ order, int first, float* __restrict__ col,
    int B, int N, int count, int H, int W, int h, int w, int kh, int kw, int sh, int sw, int ph, int pw)
{
    im2col_body(big, order, first, col, B, N, count, H, W, h, w, 3, 3, 1, 1, 1, 1);
}

extern "C" __global__ void col2im_any(
    const float* __restrict__ col, const int* __restrict__ order, int first, float* __restrict__ big,
    int B, int N, int count, int H, int W, int h, int w, int kh, int kw, int sh, int sw, int ph, int pw)
{
    col2im_body(col, order, first, big, B, N, count, H, W, h, w, kh, kw, sh, sw, ph, pw);
}

extern "C" __global__ void col2im_k4s2p1(
    const float* __restrict__ col, const int* __restrict__ order, int first, float* __restrict__ big,
    int B, int N, int count, int H, int W, int h, int w, int kh, int kw, int sh, int sw, int ph, int pw)
{
    col2im_body(col, order, first, big, B, N, count, H, W, h, w, 4, 4, 2, 2, 1, 1);
}

extern "C" __global__ void col2im_k3s1p1(
    const float* __restrict__ col, const int* __restrict__ order, int first, float* __restrict__ big,
    int B, int N, int count, int H, int W, int h, int w, int kh, int kw, int sh, int sw, int ph, int pw)
{
    col2im_body(col, order, first, big, B, N, count, H, W, h, w, 3, 3, 1, 1, 1, 1);
}

// ---- convolution without columns, where one map has a single channel -----------------------------------------------
//
// Next to the image, and at a discriminator's last layer: each number of the other map takes part in few products, and to
// write the columns would take longer than these.

// big (N, H, W) -> small (A, N, h, w) by filters (A, kh, kw). A thread owns a number of the small map; neighbours have the
// same filter.
extern "C" __global__ void thin_conv(
    const float* __restrict__ big, const float* __restrict__ filters, float* __restrict__ small,
    int A, int N, int H, int W, int h, int w, int kh, int kw, int sh, int sw, int ph, int pw)
{
    EACH(i, A * N * h * w) {
        int x = i % w, y = i / w % h, n = i / (h * w) % N, a = i / (h * w) / N;
        const float *filter = filters + a * kh * kw, *map = big + (long long)n * H * W;
        float sum = 0.0f;
        for (int ki = 0; ki < kh; ++ki) {
            int Y = y * sh - ph + ki;
            for (int kj = 0; kj < kw; ++kj) {
                int X = x * sw - pw + kj;
                if (Y >= 0 && Y < H && X >= 0 && X < W) sum += filter[ki * kw + kj] * map[Y * W + X];
            }
        }
        small[i] = sum;
    }
}

// The transpose: small (A, N, h, w) -> big (N, H, W). A thread owns a pixel of the big map and gathers the small pixels
// whose patches cover it, in all their channels.
extern "C" __global__ void thin_transpose(
    const float* __restrict__ small, const float* __restrict__ filters, float* __restrict__ big,
    int A, int N, int H, int W, int h, int w, int kh, int kw, int sh, int sw, int ph, int pw)
{
    EACH(i, N * H * W) {
        int X = i % W, Y = i / W % H, n = i / (H * W);
        float sum = 0.0f;
        for (int ki = (Y + ph) % sh; ki < kh; ki += sh) {
            int above = Y + ph - ki, y = above / sh;
            if (above < 0 || y >= h) continue;
            for (int kj = (X + pw) % sw; kj < kw; kj += sw) {
                int left = X + pw - kj, x = left / sw;
                if (left < 0 || x >= w) continue;
                const float *from = small + ((long long)n * h + y) * w + x, *tap = filters + ki * kw + kj;
                for (int a = 0; a < A; ++a) sum += from[(long long)a * N * h * w] * tap[a * kh * kw];
            }
        }
        big[i] = sum;
    }
}

// The three maps of a convolution whose window is the whole big map (B, N, P), with one filter (B, P): small is (N,).
// A block owns a sample.
extern "C" __global__ void whole_conv(const float* __restrict__ big, const float* __restrict__ filter,
                                      float* __restrict__ small, int B, int N, int P)
{
    __shared__ float shared[THREADS];
    for (int n = blockIdx.x; n < N; n += gridDim.x) {
        float sum = 0.0f;
        for (int k = threadIdx.x; k < B * P; k += THREADS)
            sum += filter[k] * big[((long long)(k / P) * N + n) * P + k % P];
        sum = block_sum_sync(sum, shared);
        if (threadIdx.x == 0) small[n] = sum;
    }
}

// big[b, n, p] = small[n] filter[b, p]
extern "C" __global__ void whole_transpose(const float* __restrict__ small, const float* __restrict__ filter,
                                           float* __restrict__ big, int B, int N, int P)
{
    EACH(i, B * N * P) big[i] = small[i / P % N] * filter[i / P / N * P + i % P];
}

// grad[b, p] = the sum over n of small[n] big[b, n, p]
extern "C" __global__ void whole_weight(const float* __restrict__ big, const float* __restrict__ small,
                                        float* __restrict__ grad, int B, int N, int P)
{
    EACH(i, B * P) {
        float sum = 0.0f;
        for (int n = 0; n < N; ++n) sum += small[n] * big[((long long)(i / P) * N + n) * P + i % P];
        grad[i] = sum;
    }
}

// ---- routes: a batch sorted by filter set, and products of each set's samples with its filters -------------------
//
// How many samples a set has is read from the plan, on the device: arguments and grid are the same whatever the routes.

// routes (L, N) -> order (L, N): the samples sorted by set, equals as they came; starts (L, K + 1): the slot where each
// set begins; used (L, K): whether it has a sample. A thread owns a set: it counts what goes before, then lists its own.
extern "C" __global__ void plan_routes(const int* __restrict__ routes, int* __restrict__ order,
                                       int* __restrict__ starts, unsigned char* __restrict__ used, int L, int N, int K)
{
    EACH(i, L * (K + 1)) {
        int layer = i / (K + 1), set = i % (K + 1), slot = 0;
        const int* route = routes + layer * N;
        for (int n = 0; n < N; ++n) slot += route[n] < set;
        starts[i] = slot;
        if (set == K) continue;
        bool any = false;
        for (int n = 0; n < N; ++n)
            if (route[n] == set) {
                order[layer * N + slot++] = n;
                any = true;
            }
        used[layer * K + set] = any;
    }
}

#define TALL 128  // rows and columns of the result that a block makes at once; routes.py has the same numbers
#define WIDE 64
#define DEEP 16   // products that are added up between two barriers
#define PAD 4     // shared rows are TALL + PAD or WIDE + PAD apart, so that a warp's accesses fall into different banks

// A matrix in memory: the numbers of a line lie next to each other, `step` is how far apart lines are. A column is a
// pixel of a slot. With `order` slot s lies where its sample does; without, columns are counted from `origin`.
struct Lines {
    const int* order;
    int step, pixels, origin;
};

__device__ __forceinline__ long long place_of(const Lines& lines, int line, int column)
{
    int place = lines.order ? lines.order[column / lines.pixels] * lines.pixels + column % lines.pixels
                            : column - lines.origin;
    return (long long)line * lines.step + place;
}

// Whether four numbers from `column` on, and from every fourth column after it, are one access of 16 bytes.
__device__ __forceinline__ bool in_fours(const float* at, const Lines& lines, int column)
{
    int period = lines.order ? lines.pixels : lines.origin;
    return (unsigned long long)at % 16 == 0 && (lines.step | column | period) % 4 == 0;
}

__device__ __forceinline__ void read_four(const float* from, float* to)
{
    float4 v = *(const float4*)from;
    to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
}

__device__ __forceinline__ void write_four(float* to, const float* v)
{
    *(float4*)to = make_float4(v[0], v[1], v[2], v[3]);
}

// One of the two matrices that a tile multiplies: its rows (the second one's columns) from `first` to before `last`.
// along: the depth, over which products are added up, runs along the lines, else across them.
struct Side {
    const float* at;
    Lines lines;
    int first, last;
    bool along;
};

// Which four numbers of a side's tile are the i-th: at row r, depth d and on along the line. Sixteen neighbouring
// threads take sixteen rows where lines run along the depth: what they write then lies in different banks.
template <int TILE>
__device__ __forceinline__ void find_four(bool along, int i, int* r, int* d)
{
    *r = along ? i / 64 * 16 + i % 16 : i % (TILE / 4) * 4;
    *d = along ? i / 16 % 4 * 4 : i / (TILE / 4);
}

// Numbers of a tile to this thread's registers, TILE / 64 times four; zeros where the matrix or the depth has ended.
template <int TILE>
__device__ __forceinline__ void fetch(const Side& side, bool fours, int depth, int end, float (&v)[TILE / 16])
{
    #pragma unroll
    for (int i = 0; i < TILE / 64; ++i) {
        int r, d;
        find_four<TILE>(side.along, threadIdx.x + i * THREADS, &r, &d);
        r += side.first;
        d += depth;
        int line = side.along ? r : d, column = side.along ? d : r;
        int columns = side.along ? end - d : side.last - r;
        if (line >= (side.along ? side.last : end)) columns = 0;
        if (fours && columns >= 4) {
            read_four(side.at + place_of(side.lines, line, column), v + 4 * i);
        } else {
            #pragma unroll
            for (int j = 0; j < 4; ++j)
                v[4 * i + j] = j < columns ? side.at[place_of(side.lines, line, column + j)] : 0.0f;
        }
    }
}

// And from the registers to shared memory, a row for each depth.
template <class Math, int TILE>
__device__ __forceinline__ void stash(bool along, const float (&v)[TILE / 16], float (*shared)[TILE + PAD])
{
    #pragma unroll
    for (int i = 0; i < TILE / 64; ++i) {
        int r, d;
        find_four<TILE>(along, threadIdx.x + i * THREADS, &r, &d);
        float four[4];
        #pragma unroll
        for (int j = 0; j < 4; ++j) four[j] = Math::rounded(v[4 * i + j]);
        if (!along) {
            write_four(&shared[d][r], four);
        } else {
            #pragma unroll
            for (int j = 0; j < 4; ++j) shared[d + j][r] = four[j];
        }
    }
}

// A block's 8 warps make 32 x 32 numbers each, a thread 8 times 4 in a row: the i-th four of a lane begin at
// (row(lane, i), column(lane, i)) of its warp's square. multiply: sum += a^T b, over DEEP rows of the shared tiles.
struct Fp32 {
    __device__ static float rounded(float x) { return x; }
    __device__ static int row(int lane, int i) { return lane / 8 * 8 + i; }
    __device__ static int column(int lane, int) { return lane % 8 * 4; }

    __device__ __forceinline__ static void multiply_sync(const float (*a)[TALL + PAD], const float (*b)[WIDE + PAD],
                                                         float (&sum)[8][4])
    {
        int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
        int r = warp / 2 * 32 + row(lane, 0), c = warp % 2 * 32 + column(lane, 0);
        #pragma unroll
        for (int d = 0; d < DEEP; ++d) {
            float left[8], right[4];
            read_four(&a[d][r], left);
            read_four(&a[d][r + 4], left + 4);
            read_four(&b[d][c], right);
            #pragma unroll
            for (int i = 0; i < 8; ++i)
                #pragma unroll
                for (int j = 0; j < 4; ++j) sum[i][j] += left[i] * right[j];
        }
    }
};

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
typedef Fp32 Tf32;  // no tensor cores that take float32
#else
// A warp's product of 16 x 8 and 8 x 8 numbers, which it holds together: with g = lane / 4 and f = lane % 4, a lane has
// a at (g, f), (g + 8, f), (g, f + 4), (g + 8, f + 4), b at (f, g), (f + 4, g), and adds to the sums d at (g, 2f),
// (g, 2f + 1), (g + 8, 2f), (g + 8, 2f + 1).
__device__ __forceinline__ void mma_sync(float& d0, float& d1, float& d2, float& d3, float a0, float a1, float a2,
                                         float a3, float b0, float b1)
{
#ifdef __CUDA_ARCH__
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d0), "+f"(d1), "+f"(d2), "+f"(d3)
                 : "r"(__float_as_uint(a0)), "r"(__float_as_uint(a1)), "r"(__float_as_uint(a2)),
                   "r"(__float_as_uint(a3)), "r"(__float_as_uint(b0)), "r"(__float_as_uint(b1)));
#else
    // The same on the processor: every lane lays out what it has, and reads the others' rows and columns.
    __shared__ float a[THREADS / 32][16][8], b[THREADS / 32][8][8];
    int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, f = threadIdx.x % 4;
    a[warp][g][f] = a0, a[warp][g + 8][f] = a1, a[warp][g][f + 4] = a2, a[warp][g + 8][f + 4] = a3;
    b[warp][f][g] = b0, b[warp][f + 4][g] = b1;
    __syncwarp();
    for (int k = 0; k < 8; ++k) {
        d0 += a[warp][g][k] * b[warp][k][2 * f];
        d1 += a[warp][g][k] * b[warp][k][2 * f + 1];
        d2 += a[warp][g + 8][k] * b[warp][k][2 * f];
        d3 += a[warp][g + 8][k] * b[warp][k][2 * f + 1];
    }
    __syncwarp();
#endif
}

// The tensor cores' arithmetic: numbers rounded to 10 bits behind the point, their products added up in float32.
// In which order the eight depths of an mma are taken, and which row is called which, is free as long as all agree. So
// a lane takes depths 2 f and 2 f + 1 and neighbouring rows and columns: four numbers at a time, from all 32 banks.
struct Tf32 {
    __device__ static float rounded(float x)
    {
#ifdef __CUDA_ARCH__
        unsigned int bits;
        asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
        return __uint_as_float(bits);
#else
        return x != x ? x : __uint_as_float((__float_as_uint(x) + 0x1000u) & ~0x1fffu);  // a half away from zero
#endif
    }
    __device__ static int row(int lane, int i) { return lane / 4 * 4 + i / 2; }
    __device__ static int column(int lane, int i) { return lane % 4 * 8 + i % 2 * 4; }

    __device__ __forceinline__ static void multiply_sync(const float (*a)[TALL + PAD], const float (*b)[WIDE + PAD],
                                                         float (&sum)[8][4])
    {
        int warp = threadIdx.x / 32, lane = threadIdx.x % 32, f = lane % 4;
        int r = warp / 2 * 32 + lane / 4 * 4, c = warp % 2 * 32 + lane / 4 * 4;
        #pragma unroll
        for (int d = 0; d < DEEP; d += 8) {
            float left[2][4], right[2][4];
            #pragma unroll
            for (int h = 0; h < 2; ++h) {
                read_four(&a[d + 2 * f + h][r], left[h]);
                read_four(&b[d + 2 * f + h][c], right[h]);
            }
            #pragma unroll
            for (int i = 0; i < 2; ++i)
                #pragma unroll
                for (int j = 0; j < 4; ++j)
                    mma_sync(sum[4 * i][j], sum[4 * i + 1][j], sum[4 * i + 2][j], sum[4 * i + 3][j], left[0][2 * i],
                             left[0][2 * i + 1], left[1][2 * i], left[1][2 * i + 1], right[0][j], right[1][j]);
        }
    }
};
#endif

// A block's TALL x WIDE numbers of a b^T: the sum over the depth from `begin` to before `end`. Two tiles of either side:
// while one is multiplied, the next is on its way from memory to registers.
template <class Math>
__device__ __forceinline__ void tile_sync(const Side& a, const Side& b, int begin, int end, float (&sum)[8][4])
{
    __shared__ __align__(16) float left[2][DEEP][TALL + PAD], right[2][DEEP][WIDE + PAD];
    bool a_fours = in_fours(a.at, a.lines, a.along ? begin : a.first);
    bool b_fours = in_fours(b.at, b.lines, b.along ? begin : b.first);
    float next_a[TALL / 16], next_b[WIDE / 16];
    int now = 1;
    for (int depth = begin - DEEP; depth < end; depth += DEEP) {  // the first turn has nothing to multiply yet
        bool more = depth + DEEP < end;
        if (more) {
            fetch<TALL>(a, a_fours, depth + DEEP, end, next_a);
            fetch<WIDE>(b, b_fours, depth + DEEP, end, next_b);
        }
        if (depth >= begin) Math::multiply_sync(left[now], right[now], sum);
        if (more) {
            stash<Math, TALL>(a.along, next_a, left[now ^ 1]);
            stash<Math, WIDE>(b.along, next_b, right[now ^ 1]);
        }
        __syncthreads();
        now ^= 1;
    }
}

// Write a block's sums to lines row to before last_row and columns first to before last, or add them to what is there.
template <class Math>
__device__ __forceinline__ void put(float* out, const Lines& lines, int row, int last_row, int first, int last,
                                    bool add, float (&sum)[8][4])
{
    bool fours = in_fours(out, lines, first);
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    #pragma unroll
    for (int i = 0; i < 8; ++i) {
        int r = row + warp / 2 * 32 + Math::row(lane, i), c = first + warp % 2 * 32 + Math::column(lane, i);
        if (r >= last_row) continue;
        if (fours && c + 4 <= last) {
            float* to = out + place_of(lines, r, c);
            float old[4] = {0.0f, 0.0f, 0.0f, 0.0f};
            if (add) read_four(to, old);
            #pragma unroll
            for (int j = 0; j < 4; ++j) old[j] += sum[i][j];
            write_four(to, old);
        } else {
            #pragma unroll
            for (int j = 0; j < 4; ++j)
                if (c + j < last) {
                    float* to = out + place_of(lines, r, c + j);
                    *to = (add ? *to : 0.0f) + sum[i][j];
                }
        }
    }
}

// The set and the columns of one tile: tiles of WIDE columns are counted through the sets, of slots first to before
// last of the batch. `set` is the number of sets where there are fewer tiles.
struct Columns {
    int set, first, last;
};

__device__ __forceinline__ Columns find_columns(const int* __restrict__ starts, int sets, int pixels, int first,
                                                int last, int tile)
{
    Columns found = {0, 0, 0};
    for (; found.set < sets; ++found.set) {
        int begin = max(starts[found.set], first) * pixels, end = min(starts[found.set + 1], last) * pixels;
        int tiles = (max(end - begin, 0) + WIDE - 1) / WIDE;
        if (tile < tiles) {
            found.first = begin + tile * WIDE;
            found.last = min(found.first + WIDE, end);
            break;
        }
        tile -= tiles;
    }
    return found;
}

// How deep each of `parts` parts of a sum is: whole tiles.
__device__ __forceinline__ int share_of(int depth, int parts)
{
    return ((depth + parts - 1) / parts + DEEP - 1) / DEEP * DEEP;
}

// small (A, samples * pixels) = filters (sets, A, D) times columns (D, slots * pixels), each slot by its set's; turned:
// columns = filters^T times small. from is what is read, to what is written; only slots first to before last are.
// small lies in the batch's order; the columns are those slots', or with is_map a map in the batch's order, too.
// parts: `to` is so many matrices, whose sum (add_parts) is the product, each over a part of the depth.
// `turned` is known to the compiler: with either way to read the filters a block needs too many registers.
template <class Math, bool turned>
__device__ __forceinline__ void product_sync(
    const float* __restrict__ filters, const float* __restrict__ from, float* __restrict__ to,
    const int* __restrict__ order, const int* __restrict__ starts, int sets, int A, int D, int samples, int pixels,
    int first, int last, int is_map, int parts)
{
    Lines small = {order, samples * pixels, pixels, 0};
    Lines columns = {nullptr, (last - first) * pixels, pixels, first * pixels};
    if (is_map) columns = small;
    Lines in = turned ? small : columns, out = turned ? columns : small, plain = {nullptr, D, 1, 0};
    int rows = turned ? D : A, depth = turned ? A : D, share = share_of(depth, parts);
    int tall = (rows + TALL - 1) / TALL, wide = sets + (last - first) * pixels / WIDE;
    for (int tile = blockIdx.x; tile < tall * wide * parts; tile += gridDim.x) {
        Columns here = find_columns(starts, sets, pixels, first, last, tile / tall % wide);
        if (here.set == sets) continue;  // the whole block, so no thread is missing at a barrier
        int row = tile % tall * TALL, part = tile / tall / wide;
        Side a = {filters + (long long)here.set * A * D, plain, row, min(row + TALL, rows), !turned};
        Side b = {from, in, here.first, here.last, false};
        float sum[8][4] = {};
        tile_sync<Math>(a, b, part * share, min(part * share + share, depth), sum);
        put<Math>(to + (long long)part * rows * out.step, out, row, a.last, here.first, here.last, false, sum);
    }
}

template <class Math>
__device__ __forceinline__ void either_way_sync(
    const float* __restrict__ filters, const float* __restrict__ from, float* __restrict__ to,
    const int* __restrict__ order, const int* __restrict__ starts, int sets, int A, int D, int samples, int pixels,
    int first, int last, int is_map, int turned, int parts)
{
    if (turned)
        product_sync<Math, true>(filters, from, to, order, starts, sets, A, D, samples, pixels, first, last, is_map,
                                 parts);
    else
        product_sync<Math, false>(filters, from, to, order, starts, sets, A, D, samples, pixels, first, last, is_map,
                                  parts);
}

extern "C" __global__ void routed_product(
    const float* __restrict__ filters, const float* __restrict__ from, float* __restrict__ to,
    const int* __restrict__ order, const int* __restrict__ starts, int sets, int A, int D, int samples, int pixels,
    int first, int last, int is_map, int turned, int parts)
{
    either_way_sync<Fp32>(filters, from, to, order, starts, sets, A, D, samples, pixels, first, last, is_map, turned,
                          parts);
}

extern "C" __global__ void routed_product_tf32(
    const float* __restrict__ filters, const float* __restrict__ from, float* __restrict__ to,
    const int* __restrict__ order, const int* __restrict__ starts, int sets, int A, int D, int samples, int pixels,
    int first, int last, int is_map, int turned, int parts)
{
    either_way_sync<Tf32>(filters, from, to, order, starts, sets, A, D, samples, pixels, first, last, is_map, turned,
                          parts);
}

// grad (sets, A, D) = small times columns^T, each set's over its own slots of first to before last; add: to what is
// there. Without slots the sum is empty, and exactly zero. parts: grad is (parts, sets, A, D), as above.
template <class Math>
__device__ __forceinline__ void gradient_sync(
    const float* __restrict__ small, const float* __restrict__ columns, float* __restrict__ grad,
    const int* __restrict__ order, const int* __restrict__ starts, int sets, int A, int D, int samples, int pixels,
    int first, int last, int is_map, int add, int parts)
{
    Lines rows = {order, samples * pixels, pixels, 0}, plain = {nullptr, D, 1, 0};
    Lines others = {nullptr, (last - first) * pixels, pixels, first * pixels};
    if (is_map) others = rows;
    int tall = (A + TALL - 1) / TALL, wide = (D + WIDE - 1) / WIDE;
    for (int tile = blockIdx.x; tile < tall * wide * sets * parts; tile += gridDim.x) {
        int row = tile % tall * TALL, column = tile / tall % wide * WIDE, which = tile / tall / wide;
        int set = which % sets, part = which / sets;
        int begin = max(starts[set], first) * pixels, end = max(min(starts[set + 1], last) * pixels, begin);
        int share = share_of(end - begin, parts);
        Side a = {small, rows, row, min(row + TALL, A), true}, b = {columns, others, column, min(column + WIDE, D), true};
        float sum[8][4] = {};
        tile_sync<Math>(a, b, begin + part * share, min(begin + part * share + share, end), sum);
        put<Math>(grad + (long long)which * A * D, plain, row, a.last, column, b.last, add, sum);
    }
}

extern "C" __global__ void routed_gradient(
    const float* __restrict__ small, const float* __restrict__ columns, float* __restrict__ grad,
    const int* __restrict__ order, const int* __restrict__ starts, int sets, int A, int D, int samples, int pixels,
    int first, int last, int is_map, int add, int parts)
{
    gradient_sync<Fp32>(small, columns, grad, order, starts, sets, A, D, samples, pixels, first, last, is_map, add,
                        parts);
}

extern "C" __global__ void routed_gradient_tf32(
    const float* __restrict__ small, const float* __restrict__ columns, float* __restrict__ grad,
    const int* __restrict__ order, const int* __restrict__ starts, int sets, int A, int D, int samples, int pixels,
    int first, int last, int is_map, int add, int parts)
{
    gradient_sync<Tf32>(small, columns, grad, order, starts, sets, A, D, samples, pixels, first, last, is_map, add,
                        parts);
}

// out (size,) = the sum of parts (count, size), first to last.
extern "C" __global__ void add_parts(const float* __restrict__ parts, float* __restrict__ out, int count, int size)
{
    EACH(i, size) {
        float sum = 0.0f;
        for (int p = 0; p < count; ++p) sum += parts[(long long)p * size + i];
        out[i] = sum;
    }
}

// ---- sums, activation -------------------------------------------------------------------------------------------

// x (rows, columns) -> out (rows, gridDim.x): a row's sum, in as many parts as there are blocks along it.
extern "C" __global__ void row_sums(const float* __restrict__ x, float* __restrict__ out, int rows, int columns)
{
    __shared__ float shared[THREADS];
    for (int row = blockIdx.y; row < rows; row += gridDim.y) {
        float sum = 0.0f;
        EACH(i, columns) sum += x[(long long)row * columns + i];
        sum = block_sum_sync(sum, shared);
        if (threadIdx.x == 0) out[(long long)row * gridDim.x + blockIdx.x] = sum;
    }
}

// Where pixel i of channel c lies: of maps stored (channel, sample, row, column), or with `samples` as a fully-connected
// layer leaves them, (row, column, channel, sample); i counts pixels sample by sample in either case.
__device__ __forceinline__ long long pixel_at(int c, int i, int C, int pixels, int samples)
{
    if (!samples) return (long long)c * pixels + i;
    int each = pixels / samples;
    return ((long long)(i % each) * C + c) * samples + i / each;
}

// y = x where x > t, else a (x - t) + t: the translated PReLU over (C, pixels). blockIdx.y is the channel. shift may be
// null. samples: 0, or how x is stored, as above.
extern "C" __global__ void tprelu(
    const float* __restrict__ x, const float* __restrict__ slope, const float* __restrict__ shift,
    float* __restrict__ out, int C, int pixels, int samples)
{
    for (int c = blockIdx.y; c < C; c += gridDim.y) {
        float a = slope[c], t = shift ? shift[c] : 0.0f;
        float* result = out + (long long)c * pixels;
        EACH(i, pixels) {
            float u = x[pixel_at(c, i, C, pixels, samples)];
            result[i] = u > t ? u : a * (u - t) + t;
        }
    }
}

// Its whole backward pass over one reading of g and x. dx, stored as x is: g above the kink, a g at it and below (null:
// not wanted). sums (2, C, gridDim.x) gets, per channel and block, the gradients to slope: the sum of g (x - t) below;
// to shift: 1 - a times the sum of g below. Null: not wanted. row_sums adds up the blocks.
extern "C" __global__ void tprelu_back(
    const float* __restrict__ g, const float* __restrict__ x, const float* __restrict__ slope,
    const float* __restrict__ shift, float* __restrict__ dx, float* __restrict__ sums, int C, int pixels, int samples)
{
    __shared__ float shared[THREADS];
    for (int c = blockIdx.y; c < C; c += gridDim.y) {
        float a = slope[c], t = shift ? shift[c] : 0.0f;
        float for_slope = 0.0f, for_shift = 0.0f;
        EACH(i, pixels) {
            long long at = pixel_at(c, i, C, pixels, samples);
            float u = x[at], cotangent = g[(long long)c * pixels + i];
            bool below = u <= t;
            if (below) {
                for_slope += cotangent * (u - t);
                for_shift += cotangent;
            }
            if (dx) dx[at] = below ? a * cotangent : cotangent;
        }
        if (!sums) continue;
        float* out = sums + (long long)c * gridDim.x + blockIdx.x;
        for_slope = block_sum_sync(for_slope, shared);
        for_shift = block_sum_sync(for_shift, shared);
        if (threadIdx.x == 0) {
            out[0] = for_slope;
            out[(long long)C * gridDim.x] = (1.0f - a) * for_shift;
        }
    }
}

// a (C, pixels_a) and b (C, pixels_b) side by side: out (C, pixels_a + pixels_b)
extern "C" __global__ void join(const float* __restrict__ a, const float* __restrict__ b, float* __restrict__ out, int C,
                                int pixels_a, int pixels_b)
{
    int pixels = pixels_a + pixels_b;
    for (int c = blockIdx.y; c < C; c += gridDim.y)
        EACH(i, pixels)
            out[(long long)c * pixels + i] =
                i < pixels_a ? a[(long long)c * pixels_a + i] : b[(long long)c * pixels_b + i - pixels_a];
}

// y = gain x + bias over (C, pixels), as above. step: 1, or 0 where gain and bias are single numbers.
extern "C" __global__ void affine(const float* __restrict__ x, const float* __restrict__ gain,
                                  const float* __restrict__ bias, float* __restrict__ y, int C, int pixels, int step)
{
    for (int c = blockIdx.y; c < C; c += gridDim.y) {
        float a = gain[c * step], b = bias[c * step];
        EACH(i, pixels) y[(long long)c * pixels + i] = a * x[(long long)c * pixels + i] + b;
    }
}

// Its backward pass: dx = gain g; sums (2, C, gridDim.x): per channel and block, the sums of g x and of g.
extern "C" __global__ void affine_back(
    const float* __restrict__ g, const float* __restrict__ x, const float* __restrict__ gain, float* __restrict__ dx,
    float* __restrict__ sums, int C, int pixels)
{
    __shared__ float shared[THREADS];
    for (int c = blockIdx.y; c < C; c += gridDim.y) {
        float for_gain = 0.0f, for_bias = 0.0f;
        EACH(i, pixels) {
            long long at = (long long)c * pixels + i;
            for_gain += g[at] * x[at];
            for_bias += g[at];
            dx[at] = gain[c] * g[at];
        }
        float* out = sums + (long long)c * gridDim.x + blockIdx.x;
        for_gain = block_sum_sync(for_gain, shared);
        for_bias = block_sum_sync(for_bias, shared);
        if (threadIdx.x == 0) {
            out[0] = for_gain;
            out[(long long)C * gridDim.x] = for_bias;
        }
    }
}

// ---- weight normalisation: all layers of a net in one launch --------------------------------------------------------

// One layer's bank. Element (set, r, channel, i) lies at ((set * outer + r) * channels + channel) * inner + i; a
// filter is everything of one set and channel. `used` is where the layer's mask of used sets starts (-1: all are).
struct Bank {
    const float* w;
    const float* g;   // gradient of the normalised filters (backward only)
    float* out;       // the normalised filters; backward: the gradient to w
    float* norms;     // (sets, channels): written forward, read backward
    int sets, channels, outer, inner, first_block, used;
    float scale, eps;
};

// Which bank, set and channels a block has to do with. A block takes as many neighbouring channels as fill a warp, so
// that short filters are read in whole lines of memory.
struct Place {
    const Bank* bank;
    int set, channel, width, lanes, tile;
    bool is_used;
};

__device__ __forceinline__ int bank_tile(const Bank& bank)
{
    bool fits = bank.inner == 1 || bank.inner == 2 || bank.inner == 4 || bank.inner == 8 || bank.inner == 16;
    return fits && bank.outer > 1 ? 32 / bank.inner : 1;
}

__device__ __forceinline__ Place find_place(
    const Bank* banks, int count, const unsigned char* used, int block)
{
    int layer = 0;
    while (layer + 1 < count && block >= banks[layer + 1].first_block) ++layer;
    Place p;
    p.bank = banks + layer;
    p.tile = bank_tile(*p.bank);
    p.lanes = p.bank->outer > 1 && p.bank->inner < THREADS ? 32 : THREADS;
    int groups = (p.bank->channels + p.tile - 1) / p.tile;
    block -= p.bank->first_block;
    p.set = block / groups;
    p.channel = block % groups * p.tile;
    p.width = min(p.tile, p.bank->channels - p.channel) * p.bank->inner;
    p.is_used = p.bank->used < 0 || used[p.bank->used + p.set];
    return p;
}

// Run `body` for each number `at` of the place that is this thread's. With a tile of several channels, all of a
// thread's numbers are of one channel.
#define EACH_OF_PLACE(p, at, body)                                                                            \
    for (int r = threadIdx.x / p.lanes; r < p.bank->outer; r += THREADS / p.lanes)                              \
        for (int j = threadIdx.x % p.lanes; j < p.width; j += p.lanes) {                                         \
            long long at = ((long long)(p.set * p.bank->outer + r) * p.bank->channels + p.channel)               \
                           * p.bank->inner + j;                                                                  \
            body                                                                                                 \
        }

// Add up a number per thread to one per channel of the place: totals[0 .. tile - 1], the same for all threads.
__device__ __forceinline__ void place_sums_sync(const Place& p, float v, float* shared, float* totals)
{
    shared[threadIdx.x] = v;
    __syncthreads();
    for (int half = THREADS / 2; half >= 32; half >>= 1) {
        if (threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
        __syncthreads();
    }
    if (threadIdx.x < p.tile) {
        int share = 32 / p.tile;
        float total = 0.0f;
        for (int i = 0; i < share; ++i) total += shared[threadIdx.x * share + i];
        totals[threadIdx.x] = total;
    }
    __syncthreads();
}

// v = w / n, n = sqrt(scale * sum w^2 + eps) for each filter; unused sets: v = 0, n = 1.
extern "C" __global__ void normalize(const Bank* __restrict__ banks, const unsigned char* __restrict__ used,
                                     int count, int blocks)
{
    __shared__ float shared[THREADS], totals[32];
    for (int block = blockIdx.x; block < blocks; block += gridDim.x) {
        Place p = find_place(banks, count, used, block);
        float sum = 0.0f;
        if (p.is_used) EACH_OF_PLACE(p, at, sum += p.bank->w[at] * p.bank->w[at];)
        place_sums_sync(p, sum, shared, totals);
        int mine = p.tile > 1 ? threadIdx.x % p.lanes / p.bank->inner : 0;  // this thread's channel within the tile
        float n = p.is_used ? sqrtf(p.bank->scale * totals[mine] + p.bank->eps) : 1.0f;
        if (p.is_used) EACH_OF_PLACE(p, at, p.bank->out[at] = p.bank->w[at] / n;)
        else EACH_OF_PLACE(p, at, p.bank->out[at] = 0.0f;)
        int c = p.channel + threadIdx.x;
        if (threadIdx.x < p.tile && c < p.bank->channels)
            p.bank->norms[p.set * p.bank->channels + c] =
                p.is_used ? sqrtf(p.bank->scale * totals[threadIdx.x] + p.bank->eps) : 1.0f;
    }
}

// dw = (g - scale (w . g) w / n^2) / n for each filter; unused sets: 0.
extern "C" __global__ void normalize_back(const Bank* __restrict__ banks, const unsigned char* __restrict__ used,
                                          int count, int blocks)
{
    __shared__ float shared[THREADS], totals[32];
    for (int block = blockIdx.x; block < blocks; block += gridDim.x) {
        Place p = find_place(banks, count, used, block);
        float sum = 0.0f;
        if (p.is_used) EACH_OF_PLACE(p, at, sum += p.bank->w[at] * p.bank->g[at];)
        place_sums_sync(p, sum, shared, totals);
        int mine = p.tile > 1 ? threadIdx.x % p.lanes / p.bank->inner : 0;
        if (p.is_used) {
            int c = min(p.channel + mine, p.bank->channels - 1);
            float n = p.bank->norms[p.set * p.bank->channels + c];
            float along = p.bank->scale * totals[mine] / (n * n);
            EACH_OF_PLACE(p, at, p.bank->out[at] = (p.bank->g[at] - along * p.bank->w[at]) / n;)
        } else EACH_OF_PLACE(p, at, p.bank->out[at] = 0.0f;)
    }
}

// ---- optimisers: all parameters of a net in one launch --------------------------------------------------------------

// A piece of memory to be updated: a parameter, or one filter set of a bank. Sets that no sample used have no entry,
// so nothing of them is even read. What depends on an entry's own count of steps is worked out on the host.
struct Entry {
    float* p;
    float* m;
    float* v;
    const float* g;
    long long size;
    float low, high;  // where p is kept
};

// p moved back between low and high. A NaN stays one (fminf and fmaxf would hide it).
__device__ __forceinline__ float within(float p, float low, float high)
{
    return p < low ? low : p > high ? high : p;
}

// v = alpha v + (1 - alpha) g^2;  p -= rate g / (sqrt(v) + eps). An entry whose rate is 0 is left alone.
extern "C" __global__ void rmsprop(const Entry* __restrict__ entries, int count, const float* __restrict__ rates,
                                   float alpha, float eps)
{
    for (int e = blockIdx.y; e < count; e += gridDim.y) {
        const float rate = rates[e];
        if (rate == 0.0f) continue;
        const Entry it = entries[e];
        EACH(i, it.size) {
            float g = it.g[i], v = alpha * it.v[i] + (1.0f - alpha) * g * g;
            it.v[i] = v;
            it.p[i] = within(it.p[i] - rate * g / (sqrtf(v) + eps), it.low, it.high);
        }
    }
}

// m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2;  p -= rate m / (sqrt(v) bias + eps). rates: for each
// entry the rate lr / (1 - beta1^t), 0 for one that is left alone, and the bias 1 / sqrt(1 - beta2^t).
extern "C" __global__ void adam(const Entry* __restrict__ entries, int count, const float* __restrict__ rates,
                                float beta1, float beta2, float eps)
{
    for (int e = blockIdx.y; e < count; e += gridDim.y) {
        const float rate = rates[2 * e], bias = rates[2 * e + 1];
        if (rate == 0.0f) continue;
        const Entry it = entries[e];
        EACH(i, it.size) {
            float g = it.g[i];
            float m = beta1 * it.m[i] + (1.0f - beta1) * g, v = beta2 * it.v[i] + (1.0f - beta2) * g * g;
            it.m[i] = m;
            it.v[i] = v;
            it.p[i] = within(it.p[i] - rate * m / (sqrtf(v) * bias + eps), it.low, it.high);
        }
    }
}

// p += share (g - p): the moving average p of weights g
extern "C" __global__ void lerp(const Entry* __restrict__ entries, int count, const float* __restrict__ share)
{
    for (int e = blockIdx.y; e < count; e += gridDim.y) {
        const Entry it = entries[e];
        EACH(i, it.size) it.p[i] += *share * (it.g[i] - it.p[i]);
    }
}

// ---- sigmoid, the GAN's loss on logits --------------------------------------------------------------------------

// loss = mean of softplus(-sign x) = mean of -log sigmoid(sign x), in one block.
extern "C" __global__ void logistic_loss(const float* __restrict__ x, float* __restrict__ loss, int n, float sign)
{
    __shared__ float shared[THREADS];
    float sum = 0.0f;
    for (int i = threadIdx.x; i < n; i += THREADS) {
        float z = -sign * x[i];
        sum += fmaxf(z, 0.0f) + log1pf(expf(-fabsf(z)));
    }
    sum = block_sum_sync(sum, shared);
    if (threadIdx.x == 0) *loss = sum / n;
}

// dx = -g sign sigmoid(-sign x) / n, for the cotangent g of the loss.
extern "C" __global__ void logistic_back(const float* __restrict__ g, const float* __restrict__ x,
                                         float* __restrict__ dx, int n, float sign)
{
    EACH(i, n) {
        float z = -sign * x[i], small = expf(-fabsf(z));
        dx[i] = -sign * *g / n * (z >= 0.0f ? 1.0f : small) / (1.0f + small);
    }
}

// Both halves of a discriminator's loss, in one block: the mean of softplus(-x) over the first numbers, of softplus(x)
// over the others.
extern "C" __global__ void logistic_losses(const float* __restrict__ x, float* __restrict__ loss, int n, int first)
{
    __shared__ float shared[THREADS];
    float sum = 0.0f;
    for (int i = threadIdx.x; i < n; i += THREADS) {
        float z = i < first ? -x[i] : x[i];
        sum += (fmaxf(z, 0.0f) + log1pf(expf(-fabsf(z)))) / (i < first ? first : n - first);
    }
    sum = block_sum_sync(sum, shared);
    if (threadIdx.x == 0) *loss = sum;
}

// dx = -g sign sigmoid(-sign x) / count, with sign 1 for the first numbers, -1 for the others.
extern "C" __global__ void logistic_losses_back(const float* __restrict__ g, const float* __restrict__ x,
                                                float* __restrict__ dx, int n, int first)
{
    EACH(i, n) {
        float sign = i < first ? 1.0f : -1.0f, z = -sign * x[i], small = expf(-fabsf(z));
        dx[i] = -sign * *g / (i < first ? first : n - first) * (z >= 0.0f ? 1.0f : small) / (1.0f + small);
    }
}

// dx = g y (1 - y), for the value y of the sigmoid.
extern "C" __global__ void sigmoid_back(const float* __restrict__ g, const float* __restrict__ y,
                                        float* __restrict__ dx, int n)
{
    EACH(i, n) dx[i] = g[i] * y[i] * (1.0f - y[i]);
}

// y = 1 / (1 + e^-x), without overflow.
extern "C" __global__ void sigmoid(const float* __restrict__ x, float* __restrict__ y, int n)
{
    EACH(i, n) {
        float small = expf(-fabsf(x[i]));
        y[i] = (x[i] >= 0.0f ? 1.0f : small) / (1.0f + small);
    }
}

// ---- pooling and resizing, over maps (maps, H, W) ---------------------------------------------------------------

// y (maps, h, w): the largest of each window; which: its number in the window. Of equals the first, of NaNs too.
extern "C" __global__ void max_pool(const float* __restrict__ x, float* __restrict__ y, int* __restrict__ which,
                                    int maps, int H, int W, int h, int w, int size, int stride)
{
    EACH(i, maps * h * w) {
        const float* corner = x + ((long long)(i / (h * w)) * H + i / w % h * stride) * W + i % w * stride;
        float best = *corner;
        int where = 0;
        for (int k = 1; k < size * size; ++k) {
            float v = corner[k / size * W + k % size];
            if (v > best || (v != v && best == best)) {
                best = v;
                where = k;
            }
        }
        y[i] = best;
        which[i] = where;
    }
}

// y (maps, h, w): from each window the number that `which` names.
extern "C" __global__ void pool_take(const float* __restrict__ x, const int* __restrict__ which, float* __restrict__ y,
                                     int maps, int H, int W, int h, int w, int size, int stride)
{
    EACH(i, maps * h * w) {
        int k = which[i];
        y[i] = x[((long long)(i / (h * w)) * H + i / w % h * stride + k / size) * W + i % w * stride + k % size];
    }
}

// The transpose: a pixel collects g from all windows that took it.
extern "C" __global__ void pool_put(const float* __restrict__ g, const int* __restrict__ which, float* __restrict__ out,
                                    int maps, int H, int W, int h, int w, int size, int stride)
{
    EACH(i, maps * H * W) {
        int X = i % W, Y = i / W % H;
        long long map = (long long)(i / (H * W)) * h * w;
        float sum = 0.0f;
        for (int y = max(0, (Y - size + stride) / stride); y < h && y * stride <= Y; ++y)
            for (int x = max(0, (X - size + stride) / stride); x < w && x * stride <= X; ++x)
                if (which[map + y * w + x] == (Y - y * stride) * size + X - x * stride)
                    sum += g[map + y * w + x];
        out[i] = sum;
    }
}

// y (maps, h, w): the mean of each size x size block of x (maps, h * size, w * size).
extern "C" __global__ void mean_pool(const float* __restrict__ x, float* __restrict__ y, int maps, int h, int w,
                                     int size)
{
    EACH(i, maps * h * w) {
        const float* corner = x + ((long long)(i / w) * size * w + i % w) * size;
        float sum = 0.0f;
        for (int k = 0; k < size * size; ++k) sum += corner[k / size * w * size + k % size];
        y[i] = sum / (size * size);
    }
}

// The transpose: every pixel of a block gets its share of g.
extern "C" __global__ void mean_unpool(const float* __restrict__ g, float* __restrict__ out, int maps, int h, int w,
                                       int size)
{
    EACH(i, maps * h * w * size * size) {
        int X = i % (w * size), row = i / (w * size);
        out[i] = g[(row / size) * w + X / size] / (size * size);
    }
}

// y = R x C^T for each map, where R and C have few numbers in a row, next to each other: row Y of R is `row_reach`
// weights from column row_start[Y] on. Interpolation is such a product, and so is its transpose.
extern "C" __global__ void resize(
    const float* __restrict__ x, float* __restrict__ y, const int* __restrict__ row_start,
    const float* __restrict__ row_weights, const int* __restrict__ col_start, const float* __restrict__ col_weights,
    int maps, int H, int W, int h, int w, int row_reach, int col_reach)
{
    EACH(i, maps * h * w) {
        int X = i % w, Y = i / w % h;
        const float* corner = x + ((long long)(i / (h * w)) * H + row_start[Y]) * W + col_start[X];
        float sum = 0.0f;
        for (int a = 0; a < row_reach; ++a) {
            float part = 0.0f;
            for (int b = 0; b < col_reach; ++b) part += col_weights[X * col_reach + b] * corner[a * W + b];
            sum += row_weights[Y * row_reach + a] * part;
        }
        y[i] = sum;
    }
}

// ---- views: images sampled along affine maps --------------------------------------------------------------------

// Where pixel (i, j) of a view is sampled along one axis: (a i + b j) + c, rounded after each step, so that both kernels
// (and NumPy) find the same place to the bit.
__device__ __forceinline__ float sampled_at(const float* __restrict__ line, int i, int j)
{
    return __fadd_rn(__fadd_rn(__fmul_rn(line[0], (float)i), __fmul_rn(line[1], (float)j)), line[2]);
}

// The weight of a pixel for a position: 1 on it, 0 from the next pixel on.
__device__ __forceinline__ float tent(float position, int pixel)
{
    return fmaxf(0.0f, 1.0f - fabsf(position - (float)pixel));
}

// x (C, N, H, W) -> views (C, M, h, w): view m shows image sources[m] through the two lines of matrices (M, 2, 3).
// A thread owns a pixel of a view in all its channels; what lies outside the image is 0.
extern "C" __global__ void warp(const float* __restrict__ x, float* __restrict__ y, const float* __restrict__ matrices,
                                const int* __restrict__ sources, int C, int N, int M, int H, int W, int h, int w)
{
    EACH(pixel, M * h * w) {
        int j = pixel % w, i = pixel / w % h, m = pixel / (h * w);
        float row = sampled_at(matrices + 6 * m, i, j), column = sampled_at(matrices + 6 * m + 3, i, j);
        int top = (int)floorf(fminf(fmaxf(row, -2.0f), (float)H));  // far outside it does not matter how far
        int left = (int)floorf(fminf(fmaxf(column, -2.0f), (float)W));
        for (int c = 0; c < C; ++c) {
            const float* map = x + (long long)(c * N + sources[m]) * H * W;
            float sum = 0.0f;
            for (int Y = max(0, top); Y < min(H, top + 2); ++Y)
                for (int X = max(0, left); X < min(W, left + 2); ++X)
                    sum += tent(row, Y) * tent(column, X) * map[Y * W + X];
            y[(long long)c * M * h * w + pixel] = sum;
        }
    }
}

// Of [first, last], the pixels j of row i of a view that may be sampled less than a pixel from `place` along one axis.
// slack: what rounding may make of a position, in pixels of the image.
__device__ __forceinline__ void narrow(const float* __restrict__ line, int i, int place, float slack, int* first,
                                       int* last)
{
    float start = line[0] * i + line[2] - place, reach = 1.0f + slack;
    if (line[1] == 0.0f) {
        if (fabsf(start) >= reach) *last = -1;
        return;
    }
    float one = (-reach - start) / line[1], other = (reach - start) / line[1];
    float low = fmaxf(floorf(fminf(one, other)), 0.0f), high = fmaxf(ceilf(fmaxf(one, other)), -1.0f);
    *first = max(*first, (int)fminf(low, (float)*last + 1.0f));
    *last = (int)fminf(high, (float)*last);
}

#define TOGETHER 4  // channels that a thread of warp_back sums up at once

// The transpose: g (C, M, h, w) -> out (C, N, H, W). A thread owns a pixel of an image and gathers from those pixels
// of its views that are sampled less than a pixel from it: order[first[n]] to order[first[n + 1] - 1] are the views of
// image n. inverse (M, 5) holds p, q, s, reach, slack: only rows within reach of p Y + q X + s can matter, and of such
// a row the columns that two inequalities leave. Which is exact does not matter as long as none is missed: tent() is.
extern "C" __global__ void warp_back(
    const float* __restrict__ g, float* __restrict__ out, const float* __restrict__ matrices,
    const float* __restrict__ inverse, const int* __restrict__ order, const int* __restrict__ first,
    int C, int N, int M, int H, int W, int h, int w)
{
    EACH(pixel, N * H * W) {
        int X = pixel % W, Y = pixel / W % H, n = pixel / (H * W);
        for (int c = 0; c < C; c += TOGETHER) {
            float sum[TOGETHER] = {0.0f, 0.0f, 0.0f, 0.0f};
            for (int k = first[n]; k < first[n + 1]; ++k) {
                const float *lines = matrices + 6 * order[k], *about = inverse + 5 * order[k];
                float middle = about[0] * Y + about[1] * X + about[2];
                int top = (int)fmaxf(0.0f, fminf(ceilf(middle - about[3]), (float)h));
                int bottom = (int)fmaxf(-1.0f, fminf(floorf(middle + about[3]), (float)(h - 1)));
                for (int i = top; i <= bottom; ++i) {
                    int left = 0, right = w - 1;
                    narrow(lines, i, Y, about[4], &left, &right);
                    narrow(lines + 3, i, X, about[4], &left, &right);
                    for (int j = left; j <= right; ++j) {
                        float weight = tent(sampled_at(lines, i, j), Y) * tent(sampled_at(lines + 3, i, j), X);
                        const float* from = g + (((long long)c * M + order[k]) * h + i) * w + j;
                        #pragma unroll
                        for (int b = 0; b < TOGETHER; ++b)
                            if (c + b < C) sum[b] += weight * from[(long long)b * M * h * w];
                    }
                }
            }
            #pragma unroll
            for (int b = 0; b < TOGETHER; ++b)
                if (c + b < C) out[(long long)(c + b) * N * H * W + pixel] = sum[b];
        }
    }
}

// out (N, S, S): images indices[0] to indices[N - 1] of `images` (count, side, side), scaled from 0..255 to 0..1, with
// `edge` black pixels around each: S = side + 2 edge. As data.to_canvas, to the bit.
extern "C" __global__ void canvas(const unsigned char* __restrict__ images, const int* __restrict__ indices,
                                  float* __restrict__ out, int N, int side, int edge)
{
    int S = side + 2 * edge;
    EACH(i, N * S * S) {
        int X = i % S - edge, Y = i / S % S - edge;
        bool inside = X >= 0 && X < side && Y >= 0 && Y < side;
        long long at = ((long long)indices[i / (S * S)] * side + Y) * side + X;
        out[i] = inside ? __fdiv_rn((float)images[at], 255.0f) : 0.0f;
    }
}

// ---- random numbers from a counter -----------------------------------------------------
//
// Philox4x32-10 and what is made of it: bit for bit the numbers of counter.py, which explains the formulas. No state:
// number i of a sequence is a function of (seed, stream, i), so each thread makes its own and none waits.
//
// Every float operation is written __fadd_rn, __fsub_rn, __fmul_rn, __fdiv_rn or __fsqrt_rn: rounded to nearest, one
// at a time. Of a plain a * b + c the compiler would make one instruction that rounds once where NumPy rounds twice.
// No value here comes near the denormals, so flushing them to zero changes nothing.

struct FourWords {
    unsigned int word[4];
};

// The four words of one block: counter (block, 0, stream) and key (seed), both in 32-bit words, the lower first.
__device__ FourWords philox4x32_10(unsigned int block, unsigned int seed_lo, unsigned int seed_hi,
                                   unsigned int stream_lo, unsigned int stream_hi) {
    unsigned int w0 = block, w1 = 0, w2 = stream_lo, w3 = stream_hi;  // word 1: a block of n < 2^31 has no upper half
    unsigned int key0 = seed_lo, key1 = seed_hi;
    for (int round = 0; round < 10; ++round) {
        unsigned int first_hi = __umulhi(0xD2511F53u, w0), first_lo = 0xD2511F53u * w0;  // halves of a 64-bit product
        unsigned int second_hi = __umulhi(0xCD9E8D57u, w2), second_lo = 0xCD9E8D57u * w2;
        w0 = second_hi ^ w1 ^ key0;
        w1 = second_lo;
        w2 = first_hi ^ w3 ^ key1;
        w3 = first_lo;
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    FourWords four = {{w0, w1, w2, w3}};
    return four;
}

// One step of Horner's rule, value * x + coefficient, rounded twice.
__device__ float horner(float value, float x, float coefficient) {
    return __fadd_rn(__fmul_rn(value, x), coefficient);
}

// (b + 1/2) / 2^23, b the upper 23 bits of the word: exact, in (0, 1).
__device__ float uniform_of(unsigned int word) {
    return __fmul_rn(__uint2float_rn(word >> 8 | 1u), 5.9604644775390625e-8f);  // times 2^-24
}

// -log(k / 2^33) = (33 - e) log 2 - log f, where k = 2^e f and f is in [sqrt(1/2), sqrt(2)); k is not 0.
__device__ float minus_log(unsigned int k) {
    unsigned int pattern = __float_as_uint(__uint2float_rn(k));
    unsigned int e = (pattern - 0x3F3504F3u) >> 23;  // less the bits of sqrt(1/2): the exponent steps at sqrt(2) 2^e
    float f = __uint_as_float(pattern - (e << 23));
    float s = __fdiv_rn(__fsub_rn(f, 1.0f), __fadd_rn(f, 1.0f));  // log f = 2 atanh(s), a series in s^2
    float square = __fmul_rn(s, s);
    float series = horner(0.28571428571f, square, 0.4f);
    series = horner(series, square, 0.66666666667f);
    series = horner(series, square, 2.0f);
    return __fsub_rn(__fmul_rn(__uint2float_rn(33u - e), 0.69314718056f), __fmul_rn(s, series));
}

// Standard normal: the upper bit of the word is the sign, the other 31 the probability p = k / 2^33 of the tail
// beyond |z|. Rational approximations: PPND7 of Wichura's algorithm AS 241, 1988.
__device__ float normal_of(unsigned int word) {
    unsigned int k = word << 1 | 1u;
    float q = __fmul_rn(__uint2float_rn(0u - k), 1.16415321826934814453125e-10f);  // 1/2 - p; the factor is 2^-33
    float top, bottom;
    if (q <= 0.425f) {
        float r = __fsub_rn(0.180625f, __fmul_rn(q, q));
        top = horner(horner(horner(59.109374720f, r, 159.29113202f), r, 50.434271938f), r, 3.3871327179f);
        top = __fmul_rn(q, top);
        bottom = horner(horner(horner(67.187563600f, r, 78.757757664f), r, 17.895169469f), r, 1.0f);
    } else {
        float r = __fsub_rn(__fsqrt_rn(minus_log(k)), 1.6f);
        top = horner(horner(horner(0.17023821103f, r, 1.3067284816f), r, 2.7568153900f), r, 1.4234372777f);
        bottom = horner(horner(0.12021132975f, r, 0.73700164250f), r, 1.0f);
    }
    float z = __fdiv_rn(top, bottom);
    return word >> 31 ? -z : z;
}

// What a kernel makes of a word; `high` is for the integers alone.
struct AsBits {
    __device__ static unsigned int of(unsigned int word, unsigned int) { return word; }
};
struct AsUniform {
    __device__ static float of(unsigned int word, unsigned int) { return uniform_of(word); }
};
struct AsNormal {
    __device__ static float of(unsigned int word, unsigned int) { return normal_of(word); }
};
struct AsInteger {  // the upper half of word * high: in [0, high)
    __device__ static int of(unsigned int word, unsigned int high) { return (int)__umulhi(word, high); }
};

// out (n,), n < 2^31. A turn of the loop makes one block of four words, so it writes numbers 4 * block to
// 4 * block + 3, or fewer at the end. 1-D grid of any size. Unsigned, because (n + 3) may be 2^31 or more.
template <class Kind, class Number>
__device__ void counter_fill(Number* out, unsigned int n, unsigned int high, unsigned int seed_lo,
                             unsigned int seed_hi, unsigned int stream_lo, unsigned int stream_hi) {
    unsigned int blocks = (n + 3) / 4;
    for (unsigned int b = blockIdx.x * blockDim.x + threadIdx.x; b < blocks; b += gridDim.x * blockDim.x) {
        FourWords four = philox4x32_10(b, seed_lo, seed_hi, stream_lo, stream_hi);
        for (unsigned int j = 0; j < 4; ++j) {
            if (4 * b + j < n) out[4 * b + j] = Kind::of(four.word[j], high);
        }
    }
}

// The kernels. Seed and stream come as (lower, upper) words: counter.py's halves().
extern "C" __global__ void counter_bits(unsigned int* out, int n, unsigned int seed_lo, unsigned int seed_hi,
                                        unsigned int stream_lo, unsigned int stream_hi) {
    counter_fill<AsBits>(out, n, 0, seed_lo, seed_hi, stream_lo, stream_hi);
}

extern "C" __global__ void counter_uniform(float* out, int n, unsigned int seed_lo, unsigned int seed_hi,
                                           unsigned int stream_lo, unsigned int stream_hi) {
    counter_fill<AsUniform>(out, n, 0, seed_lo, seed_hi, stream_lo, stream_hi);
}

extern "C" __global__ void counter_normal(float* out, int n, unsigned int seed_lo, unsigned int seed_hi,
                                          unsigned int stream_lo, unsigned int stream_hi) {
    counter_fill<AsNormal>(out, n, 0, seed_lo, seed_hi, stream_lo, stream_hi);
}

// Numbers for several draws, each as counter_normal makes them, with its four words of seed and stream in device memory: a
// recorded step gets others each time. out (draws, width, n / width): each draw's rows of `width` numbers, as columns.
extern "C" __global__ void normal_of_step(float* out, int n, int width, const unsigned int* __restrict__ words,
                                          int draws) {
    int blocks = (n + 3) / 4;
    EACH(i, draws * blocks) {
        int draw = i / blocks, b = i % blocks;
        const unsigned int* word = words + 4 * draw;
        FourWords four = philox4x32_10(b, word[0], word[1], word[2], word[3]);
        for (int k = 4 * b; k < 4 * b + 4 && k < n; ++k)
            out[draw * n + k % width * (n / width) + k / width] = normal_of(four.word[k - 4 * b]);
    }
}

extern "C" __global__ void counter_integers(int* out, int n, unsigned int high, unsigned int seed_lo,
                                            unsigned int seed_hi, unsigned int stream_lo, unsigned int stream_hi) {
    counter_fill<AsInteger>(out, n, high, seed_lo, seed_hi, stream_lo, stream_hi);
}
