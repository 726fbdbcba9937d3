# %% [markdown]
# # 06 · Convolution and its transpose
#
# **Goal.** Compute a convolution by loops and as a matrix product, turn it round into the transposed convolution that
# makes a generator's pictures grow, and see why kernel 3 with stride 2 leaves a checkerboard.
#
# **You need** lesson 3 and matrix products. **Minutes:** 25 to read, seconds to run.
#
# **The package's tests:** test_conv.py, test_kernels.py

# %%
import lesson
import numpy as np

from tinygan import Tensor, no_grad, ops, profile
from tinygan.ops import conv2d, conv2d_weight, conv_transpose2d

flags = lesson.flags()
rng = np.random.default_rng(0)


# %% [markdown]
# ## A window that slides
#
# A *filter* is a small table of numbers, k x k for every channel of the picture. Lay it on the picture, multiply what
# lies on top of each other, add up: one output pixel. Then move on by `stride` pixels. `padding` is a border of zeros.
# Several filters give several output *channels*, as a colour picture has three: red, green and blue.
#
#     y[a, i, j]  =  sum over b, u, v  of   w[a, b, u, v] * x[b, s*i + u - p, s*j + v - p]
#
# Here a counts the filters, b the channels, u and v the place in the filter; s is the stride, p the padding; outside
# the picture x is 0. *Kernel 3* means k = 3. The side is h = (H + 2p - k) // s + 1: what fills no step is dropped. Each
# output pixel depends on a small window, and all windows share the same weights.


# %%
def conv_loops(x, w, s, p):
    """x (B, H, W), w (A, B, k, k) -> (A, h, w)."""
    x, k = np.pad(x, ((0, 0), (p, p), (p, p))), w.shape[2]
    h, width = (x.shape[1] - k) // s + 1, (x.shape[2] - k) // s + 1
    y = np.zeros((len(w), h, width))
    for i in range(h):
        for j in range(width):
            window = x[:, s * i:s * i + k, s * j:s * j + k]
            y[:, i, j] = (w * window).sum(axis=(1, 2, 3))
    return y


row, column = np.mgrid[:24, :24]
disc = ((row - 12) ** 2 + (column - 11) ** 2 < 64.0).astype(float)[None]
left_less_right = np.array([[1.0, 0.0, -1.0]] * 3)
edges = np.stack([left_less_right, left_less_right.T])[:, None]  # two filters of one channel
filtered = conv_loops(disc, edges, s=1, p=1)
fig, axes = lesson.figure(1, 3, height=2.8)
for ax, picture, title in zip(axes, (disc[0], *filtered), ("picture", "filter 1", "filter 2"), strict=True):
    ax.imshow(picture, **({"cmap": "gray"} if title == "picture" else {"cmap": "RdBu_r", "vmin": -3, "vmax": 3}))
    ax.set(title=title, xlabel="pixel", xticks=[0, 12, 23], yticks=[0, 12, 23])
lesson.save(fig, "06_two_filters")
assert filtered[0, 12, 4] < -2 and filtered[0, 12, 18] > 2 and abs(filtered[0, 12, 11]) == 0

# %% [markdown]
# The first filter is left minus right. Its result is below 0 (blue) at upright edges where the picture gets brighter
# to the right, above 0 (red) where it gets darker, and 0 where nothing changes. The second does the same from
# top to bottom.
#
# ## The same as a matrix product
#
# Loops in Python are slow. So cut out all windows first and lay each one down as a column. Then the filters, each laid
# down as a row, meet all windows in *one* matrix product. This is known as *im2col*, from image to columns.


# %%
def columns_of(x, k, s, p):
    """x (B, H, W) -> (B k k, h w), every column is one window; and (h, w)."""
    x = np.pad(x, ((0, 0), (p, p), (p, p)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (k, k), axis=(1, 2))[:, ::s, ::s]  # (B, h, w, k, k)
    return windows.transpose(0, 3, 4, 1, 2).reshape(len(x) * k * k, -1), windows.shape[1:3]


def conv_matmul(x, w, s, p):
    columns, size = columns_of(x, w.shape[2], s, p)
    return (w.reshape(len(w), -1) @ columns).reshape(-1, *size)


x, w = rng.normal(size=(3, 8, 8)), rng.normal(size=(5, 3, 4, 4))
assert np.allclose(conv_loops(x, w, 2, 1), conv_matmul(x, w, 2, 1), rtol=0, atol=1e-12)
columns = columns_of(x, 4, 2, 1)[0]
print("picture", x.shape, "-> columns", columns.shape, "-> result", conv_matmul(x, w, 2, 1).shape)
assert columns.size == 4 * x.size

# %% [markdown]
# A window has k * k numbers, and there is one window for every s * s pixels. So the columns hold about (k / s) ** 2
# times as many numbers as the picture: 4 times here, 9 times for kernel 3 with stride 1. That is the price of one big
# product.
#
# ## Turn it round
#
# A convolution is linear in x. So there is a matrix M with y = M x, if x and y are laid out as long vectors. We find it
# column by column: M times the picture in which only pixel j is lit is column j. Its transpose maps small pictures to
# big ones. That, and nothing else, is the *transposed convolution*. (Some call it deconvolution; it does not undo a
# convolution.)

# %%
single = rng.normal(size=(1, 1, 4, 4))  # one filter of one channel
M = np.stack([conv_loops(pixel.reshape(1, 8, 8), single, 2, 1).ravel() for pixel in np.eye(64)], axis=1)
print("M", M.shape, f"of which {(M != 0).mean():.0%} are not 0; different values besides 0: {len(np.unique(M)) - 1}")
assert M.shape == (16, 64) and len(np.unique(M)) == 17

fig, axes = lesson.figure(1, 2, height=3.2, width_ratios=[2, 1])
for ax, matrix, title in zip(axes, (M, M.T), ("M: 64 pixels to 16", "transpose: 16 to 64"), strict=True):
    ax.imshow(matrix, cmap="RdBu_r", vmin=-2, vmax=2, interpolation="nearest", aspect="auto")
    ax.set(title=title, xlabel="pixel in", ylabel="pixel out")
lesson.save(fig, "06_the_matrix")


# %% [markdown]
# A row of M is one window: the same 16 weights at other places, less those that lie on the padding. Rows of M are
# columns of the transpose, and a column is what *one* small pixel contributes. So the transposed convolution needs no
# matrix: **every small pixel paints a k x k patch with the filter, patches are `stride` apart, and where they overlap
# they add. At the end p pixels are cut off on every side, where the padding was.**


# %%
def conv_transpose_loops(y, w, s, p):
    """y (A, h, w), w (A, B, k, k) -> (B, H, W), H = s (h - 1) + k - 2 p."""
    k = w.shape[2]
    big = np.zeros((w.shape[1], s * (y.shape[1] - 1) + k, s * (y.shape[2] - 1) + k))
    for i in range(y.shape[1]):
        for j in range(y.shape[2]):
            big[:, s * i:s * i + k, s * j:s * j + k] += np.tensordot(y[:, i, j], w, axes=1)  # sum over a
    return big[:, p:big.shape[1] - p, p:big.shape[2] - p]


small = rng.normal(size=(1, 4, 4))
assert np.allclose(conv_transpose_loops(small, single, 2, 1).ravel(), M.T @ small.ravel(), rtol=0, atol=1e-12)
print("painted patches = transpose of M:", small.shape, "->", conv_transpose_loops(small, single, 2, 1).shape)

# %% [markdown]
# ## One number, three ways
#
# Let g be any small picture. For any matrix, g . (M x) = x . (M^T g), since both are the same double sum in another
# order; M^T is called the *adjoint* of M. Our sum has a third factor, the filter, and so a third way to sum: multiply
# big and small pictures, and collect what belongs to each weight.
#
#     < conv(x, w), g >   =   < x, conv_transpose(g, w) >   =   < w, conv_weight(x, g) >
#
# Here < a, b > is the sum of a * b. The number is < x, something without x >, so that something is its gradient by x,
# and likewise for w. On the way back g is the gradient that arrives at the convolution's result. So back through a
# convolution goes a transposed one, and the other way round.


# %%
def conv_weight(x, g, k, s, p):
    """x (B, H, W), g (A, h, w) -> (A, B, k, k)."""
    columns, _ = columns_of(x, k, s, p)
    return (g.reshape(len(g), -1) @ columns.T).reshape(len(g), len(x), k, k)


g = rng.normal(size=(5, 4, 4))
numbers = [(conv_loops(x, w, 2, 1) * g).sum(), (x * conv_transpose_loops(g, w, 2, 1)).sum(),
           (w * conv_weight(x, g, 4, 2, 1)).sum()]
print("three ways:", *(f"{n:.3f}" for n in numbers))
assert np.allclose(numbers, numbers[0], rtol=1e-10)

# %% [markdown]
# ## The same in the package
#
# tinygan's three operations take a batch as well. All three must agree with ours, and its tape must give the same two
# gradients.

# %%
big, little = Tensor(x[None], requires_grad=True), Tensor(g[None])
weight = Tensor(w, requires_grad=True)
out = conv2d(big, weight, stride=2, padding=1)
ops.sum(out * little).backward()
for mine, theirs in (
        (conv_loops(x, w, 2, 1), out.numpy()[0]),
        (conv_transpose_loops(g, w, 2, 1), conv_transpose2d(little, weight, stride=2, padding=1).numpy()[0]),
        (conv_weight(x, g, 4, 2, 1), conv2d_weight(big, little, kernel=4, stride=2, padding=1).numpy()[0]),
        (conv_transpose_loops(g, w, 2, 1), big.grad.numpy()[0]),
        (conv_weight(x, g, 4, 2, 1), weight.grad.numpy())):
    assert np.allclose(mine, theirs, rtol=0, atol=1e-11)
print("five equalities hold")


# %% [markdown]
# ## The checkerboard
#
# A *generator*, the net of later lessons that makes pictures, enlarges them by transposed convolutions with stride 2.
# How many patches meet in a pixel? Paint with a filter of ones on a picture of ones, and read the count.


# %%
def overlaps(k, p, side=6):
    ones = np.ones((1, 1, side, side)), np.ones((1, 1, k, k))
    return conv_transpose2d(Tensor(ones[0]), Tensor(ones[1]), stride=2, padding=p).numpy()[0, 0]


def texture(k, p, layers=3, draws=100 if flags.quick else 400):
    """A flat map grown `layers` times by random filters: each pixel's root mean square over many of them, (H, W)."""
    rng = np.random.default_rng(4)
    maps = Tensor(np.ones((1, 1, 6, 6)))
    with no_grad():
        for i in range(layers):
            filters = rng.normal(size=(maps.shape[1], 16 if i < layers - 1 else draws, k, k))
            maps = conv_transpose2d(maps, Tensor(filters), stride=2, padding=p)
    return np.sqrt((maps.numpy()[0] ** 2).mean(axis=0))


counts = {3: overlaps(3, 1)[1:-1, 1:-1], 4: overlaps(4, 1)[1:-1, 1:-1]}
images = {3: texture(3, 1)[8:32, 8:32], 4: texture(4, 1)[8:32, 8:32]}  # away from the borders
for k in counts:
    print(f"kernel {k}: inside, counts of", np.unique(counts[k]), "patches")
assert set(counts[3].ravel()) == {1, 2, 4} and set(counts[4].ravel()) == {4}

# %%
fig, axes = lesson.figure(1, 4, height=2.3)
for at, k in enumerate(counts):
    left, right = axes[2 * at], axes[2 * at + 1]
    left.imshow(counts[k], cmap="Blues", vmin=0, vmax=4)
    for i, j in np.ndindex(4, 4):
        left.text(j, i, f"{counts[k][i, j]:.0f}", ha="center", va="center",
                  color="white" if counts[k][i, j] > 3 else "black")
    left.set(title=f"kernel {k}: patches", xlim=(-0.5, 3.5), ylim=(3.5, -0.5), xlabel="pixel")
    right.imshow(images[k] / images[k].mean(), cmap="gray", vmin=0, vmax=2.5)
    right.set(title=f"kernel {k}: 3 layers", xlabel="pixel")
lesson.save(fig, "06_checkerboard")


def unevenness(image):
    """Standard deviation over mean."""
    return round(float(image.std() / image.mean()), 2)


print({f"kernel {k}": {layers: unevenness(texture(k, 1, layers)[2 ** layers:-2 ** layers, 2 ** layers:-2 ** layers])
                       for layers in (1, 2, 3)} for k in counts})
assert unevenness(images[3]) > 3 * unevenness(images[4])

# %% [markdown]
# The numbers count the patches. Along one line, patches of 3 that start every 2 pixels cover the pixels twice, once,
# twice, once; in two dimensions multiply: 4, 2, 1. Patches of 4 cover every pixel twice, so every count is 2 x 2. The
# grey pictures show what random filters make of a flat map in three layers: the root mean square of each pixel. The
# printed unevenness, for one, two and three layers, stays high with kernel 3 and low with kernel 4.
#
# Training can learn to balance the counts, but it has to (Odena, Dumoulin & Olah 2016). So kernel 4 with stride 2 and
# padding 1, which doubles the side exactly, is the choice of this project's nets. It makes the *counts* even. A learned
# filter may still draw a checkerboard: even and odd pixels meet different weights of it, and their sums need not agree.
#
# ## What you learned
#
# * Convolution is a matrix product in two senses: a big sparse matrix times the picture, or filters times windows.
# * The transposed convolution is the transpose of that matrix: patches, painted and added. It undoes nothing.
# * Convolution, its transpose and the weight gradient are three views of one sum. The gradients of one are the others.
# * Choose a kernel that is a multiple of the stride: then each pixel is painted equally often.
#
# ## Exercises
#
# **1.** A convolution may drop the last rows, so several sizes give the same h. List all H that do, smallest first.
# **2.** One dimension, kernel k, stride s, far from the borders: in how many patches does a pixel lie? List the
# different counts, smallest first; 0 counts, too. **3.** With stride 1 and padding 0 the transpose is an ordinary
# convolution in disguise. Write it with `conv2d(x, w, stride=1, padding=0)` alone; y (N, A, h, w), N images, and w (A,
# B, k, k) are Tensors. Prepare the filters with NumPy from `w.numpy()`. Hint: which small pixels paint into one big
# pixel, and with which weights?


# %%
def exercise_1(h, k, s, p):
    raise NotImplementedError("yours to write")


def check_1(sizes):
    for k, s, p in ((3, 1, 1), (4, 2, 1), (3, 2, 0), (5, 3, 2)):
        for h in (1, 4):
            fits = [n for n in range(1, 60) if n + 2 * p >= k and (n + 2 * p - k) // s + 1 == h]
            assert list(sizes(h, k, s, p)) == fits, f"h = {h}, k = {k}, s = {s}, p = {p}: it should be {fits}"


lesson.exercise(exercise_1, check_1)


# %%
def exercise_2(k, s):
    raise NotImplementedError("yours to write")


def check_2(counts):
    for k, s in ((3, 2), (4, 2), (5, 2), (5, 3), (6, 3), (2, 3), (7, 4)):
        line = np.zeros(200)
        for start in range(0, 190, s):
            line[start:start + k] += 1
        expected = sorted(set(line[50:150].astype(int).tolist()))
        assert list(counts(k, s)) == expected, f"kernel {k}, stride {s}: painting gives {expected}"


lesson.exercise(exercise_2, check_2)


# %%
def exercise_3(y, w):
    raise NotImplementedError("yours to write")


def check_3(transpose):
    rng = np.random.default_rng(5)
    for k in (2, 3):
        y, w = Tensor(rng.normal(size=(2, 3, 5, 6))), Tensor(rng.normal(size=(3, 4, k, k)))
        with profile(show=False) as ops_run:
            mine = transpose(y, w).numpy()
        assert not any("transpose" in name for name, _, _ in ops_run.rows()), "conv2d alone, please"
        expected = conv_transpose2d(y, w).numpy()
        assert mine.shape == expected.shape, f"the shape should be {expected.shape}, not {mine.shape}"
        assert np.allclose(mine, expected), "the values differ: which way round do the filters lie?"


lesson.exercise(exercise_3, check_3)
