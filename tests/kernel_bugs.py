"""Bugs planted into kernels.cu, one at a time: the case table must notice each."""

from typing import NamedTuple


class Bug(NamedTuple):
    """kernel: which rows of the table to run (by the start of the name). right -> wrong, `times` times (-1: all)."""

    label: str
    kernel: str
    right: str
    wrong: str
    times: int = 1


BUGS = [
    # index
    Bug("im2col takes the padding for the kernel", "im2col_any",
        "int X = x * sw - pw + kj;", "int X = x * sw - ph + kj;"),
    Bug("im2col mixes rows and columns", "im2col_any",
        "int y = rest % h;\n        rest /= h;\n        int s = rest % count, b",
        "int y = rest % w;\n        rest /= w;\n        int s = rest % count, b"),
    Bug("im2col ignores the order", "im2col_k4s2p1",
        "int n = order ? order[first + s] : first + s;\n        const float* map",
        "int n = first + s;\n        const float* map"),
    Bug("im2col forgets where the chunk starts", "im2col_any",
        "order[first + s] : first + s;\n        const float* map", "order[s] : s;\n        const float* map"),
    Bug("col2im ignores the order", "col2im_any",
        "int n = order ? order[first + s] : first + s;\n        big[", "int n = first + s;\n        big["),
    Bug("col2im starts at the wrong tap", "col2im_any", "int ki = (Y + ph) % sh", "int ki = Y % sh"),
    Bug("the special kernel has another padding", "im2col_k4s2p1",
        "h, w, 4, 4, 2, 2, 1, 1);", "h, w, 4, 4, 2, 2, 0, 1);"),
    Bug("the special kernel has another stride", "col2im_k3s1p1",
        "col2im_body(col, order, first, big, B, N, count, H, W, h, w, 3, 3, 1, 1, 1, 1);",
        "col2im_body(col, order, first, big, B, N, count, H, W, h, w, 3, 3, 1, 2, 1, 1);"),
    Bug("samples sorted the wrong way", "sort_samples", "if (back) out[there]", "if (!back) out[there]"),
    Bug("a sum per row reads another row", "row_sums",
        "x[(long long)row * columns + i]", "x[(long long)row * rows + i]"),
    Bug("blocks of a channel overwrite each other", "bias_tprelu_back",
        "c * gridDim.x + blockIdx.x;", "c * gridDim.x;"),
    Bug("a tile's sums are of other channels", "normalize",
        "shared[threadIdx.x * share + i];", "shared[threadIdx.x + i * p.tile];"),
    Bug("a bank finds the wrong layer", "normalize",
        "block >= banks[layer + 1].first_block", "block > banks[layer + 1].first_block"),
    Bug("a window's number counts columns first", "max_pool",
        "corner[k / size * W + k % size]", "corner[k % size * W + k / size]"),
    Bug("pool_put starts at the wrong window", "pool_put",
        "int y = max(0, (Y - size + stride) / stride)", "int y = max(0, (Y - size + stride) / stride + 1)"),
    Bug("resizing mixes the weights of rows and columns", "resize",
        "row_weights[Y * row_reach + a]", "row_weights[Y * col_reach + a]"),
    Bug("random words in another order", "counter_bits",
        "out[4 * b + j] = Kind::of(four.word[j], high);", "out[4 * b + j] = Kind::of(four.word[3 - j], high);"),
    # bound
    Bug("im2col reads a row too many", "im2col_any", "Y >= 0 && Y < H", "Y >= 0 && Y <= H"),
    Bug("im2col reads before the row", "im2col_any", "X >= 0 && X < W;", "X >= -1 && X < W;"),
    Bug("col2im drops the last row", "col2im_any", "above < 0 || y >= h", "above < 0 || y >= h - 1"),
    Bug("col2im wraps around to the left", "col2im_any", "if (left < 0 || x >= w) continue;", "if (x >= w) continue;"),
    Bug("the last element is left out", "sigmoid",
        "EACH(i, n) {\n        float small = expf(-fabsf(x[i]));",
        "EACH(i, n - 1) {\n        float small = expf(-fabsf(x[i]));"),
    Bug("a loop that takes one turn", "adam", "i += gridDim.x * blockDim.x)", "i += 0x40000000)"),
    Bug("the last tile writes a channel too many", "normalize",
        "threadIdx.x < p.tile && c < p.bank->channels)", "threadIdx.x < p.tile && c <= p.bank->channels)"),
    Bug("a bank's width is not cut at its end", "normalize", "min(p.tile, p.bank->channels - p.channel)", "p.tile"),
    Bug("the last numbers of a draw are missing", "counter_normal",
        "unsigned int blocks = (n + 3) / 4;", "unsigned int blocks = n / 4;"),
    # sign and constants
    Bug("the kink belongs to the other side", "bias_tprelu_back", "bool below = u <= t;", "bool below = u < t;"),
    Bug("the shift is subtracted twice", "bias_tprelu", "a * (u - t) + t;", "a * (u - t) - t;"),
    Bug("the bias is left out of the backward pass", "bias_tprelu_back",
        "float u = x[start + i] + b, cotangent", "float u = x[start + i], cotangent"),
    Bug("the slope's share of the bias is lost", "bias_tprelu_back", "for_bias += passed;", "for_bias += cotangent;"),
    Bug("normalisation forgets scale", "normalize_back",
        "p.bank->scale * totals[mine] / (n * n)", "totals[mine] / (n * n)"),
    Bug("normalisation's gradient points along the weight", "normalize_back",
        "p.bank->g[at] - along", "p.bank->g[at] + along"),
    Bug("the loss has the other sign", "logistic_loss",
        "float z = -sign * x[i];\n        sum", "float z = sign * x[i];\n        sum"),
    Bug("the slope of the loss has the other sign", "logistic_back", "dx[i] = -sign * *g / n", "dx[i] = sign * *g / n"),
    Bug("Adam divides by the wrong average", "adam",
        "it.rate * m / (sqrtf(v) * it.bias + eps)", "it.rate * m / (sqrtf(v * it.bias) + eps)"),
    Bug("RMSprop's epsilon inside the root", "rmsprop", "(sqrtf(v) + eps), it.low)", "sqrtf(v + eps), it.low)"),
    Bug("bounds the wrong way round", "rmsprop", "fminf(fmaxf(it.p[i] - lr", "fmaxf(fminf(it.p[i] - lr"),
    Bug("the average moves away", "lerp", "share * (it.g[i] - it.p[i])", "share * (it.p[i] - it.g[i])"),
    Bug("the first of equals does not win", "max_pool", "if (v > best || v != v)", "if (v >= best || v != v)"),
    Bug("a NaN is lost", "max_pool", "if (v > best || v != v)", "if (v > best)"),
    Bug("a mean of the wrong count", "mean_pool", "y[i] = sum / (size * size);", "y[i] = sum / size;"),
    Bug("a random number's sign bit", "counter_normal", "return word >> 31 ? -z : z;", "return word >> 31 ? z : -z;"),
    # barriers, memory never written
    Bug("a sum is added up before all have written", "row_sums",
        "    shared[threadIdx.x] = v;\n    __syncthreads();\n    for (int half = THREADS / 2; half > 0",
        "    shared[threadIdx.x] = v;\n    for (int half = THREADS / 2; half > 0"),
    Bug("no waiting between the halves", "row_sums",
        "shared[threadIdx.x] += shared[threadIdx.x + half];\n        __syncthreads();\n    }\n    return",
        "shared[threadIdx.x] += shared[threadIdx.x + half];\n    }\n    return"),
    Bug("some threads skip the barrier", "row_sums",
        "        sum = block_sum_sync(sum, shared);\n        if (threadIdx.x == 0) out",
        "        if (threadIdx.x < columns) sum = block_sum_sync(sum, shared);\n        if (threadIdx.x == 0) out"),
    Bug("the totals are read too early", "normalize",
        "        totals[threadIdx.x] = total;\n    }\n    __syncthreads();",
        "        totals[threadIdx.x] = total;\n    }"),
    Bug("half of the sum is left out", "logistic_loss",
        "int half = THREADS / 2; half > 0", "int half = THREADS / 4; half > 0"),
    Bug("unused sets are left as they are", "normalize",
        "else EACH_OF_PLACE(p, at, p.bank->out[at] = 0.0f;)\n        int c", "int c"),
    Bug("the norms are not written", "normalize",
        "p.bank->norms[p.set * p.bank->channels + c] =\n", "float unused =\n"),
]
