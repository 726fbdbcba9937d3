# %% [markdown]
# # 07 · Length and direction
#
# **Goal.** Split a weight into its length and its direction, as weight normalisation does. See what that does to the
# gradient, to the length itself during training, and to the size of a signal on its way through a deep net.
#
# **You need** lessons 5 and 6. **Minutes:** 25 to read.
#
# **The package's tests:** test_functional.py, test_layers.py

# %%
import lesson
import numpy as np

from tinygan import Tensor, no_grad, ops
from tinygan.nn import Adam, ConvTranspose2d, Linear, Parameter, PReLU, Sequential, TPReLU
from tinygan.ops import weight_norm

flags = lesson.flags()
steps = 300 if flags.quick else 2000


# %% [markdown]
# ## One unit
#
# A unit computes w . x, the sum of w_i x_i. Its weight w is an arrow. The *direction* decides which inputs give a
# large output. The *length* |w| only scales it. Weight normalisation (Salimans & Kingma 2016) divides the length
# out. Xiang & Li (2017), whose nets this project follows, use it in two kinds:
#
#     strict    y = (w . x) / |w|               direction alone
#     affine    y = g (w . x) / |w| + b         gain g and bias b are parameters, too
#
# In their nets all layers are strict but the last. The length of its weights does not change a strict layer:

# %%
layer = Linear(6, 3, norm="strict", eps=0.0, rng=np.random.default_rng(0), dtype=np.float64)
x = Tensor(np.random.default_rng(1).normal(size=(4, 6)))
before = layer(x).numpy()
layer.weight.data *= 10
assert np.allclose(before, layer(x).numpy(), rtol=0, atol=1e-12)

plain = layer.weight.numpy()[0, :, :, 0, 0]
assert np.allclose(before, x.numpy() @ (plain / np.linalg.norm(plain, axis=1, keepdims=True)).T, rtol=0, atol=1e-12)
print("ten times the weight, the same answer; and it is x times the rows of length 1")

# %% [markdown]
# ## The gradient stands at a right angle to the weight
#
# Let v = w / |w|, and G the gradient of the loss by v. The chain rule through the division gives
#
#     g  =  ( G - (v . G) v ) / |w|
#
# The bracket takes from G its part along v. So w . g = 0. It has to be: a step along w changes nothing but the
# length, and the loss does not depend on it. The division says more: **a shorter weight has a larger gradient**.


# %%
def direction(w):
    """w (n,) -> w / |w| by the package, which has an axis for each of (set, outputs, inputs, rows, columns)."""
    return weight_norm(w.reshape(1, 1, -1, 1, 1), out_axis=1, eps=0.0).reshape(-1)


rng = np.random.default_rng(2)
w0, G = rng.normal(size=20), rng.normal(size=20)
v = w0 / np.linalg.norm(w0)
slopes = {}
for factor in (1.0, 0.125):
    w = Parameter(w0 * factor)
    ops.sum(direction(w) * Tensor(G)).backward()
    slopes[factor] = g = w.grad.numpy()
    assert np.allclose(g, (G - (v @ G) * v) / np.linalg.norm(w0 * factor), rtol=1e-10)
    cosine = w0 @ g / np.linalg.norm(w0) / np.linalg.norm(g)
    print(f"weight times {factor:<5g}: cosine of weight and gradient {abs(cosine):.6f}, |g| = {np.linalg.norm(g):.2f}")
    assert abs(cosine) < 1e-10
assert np.allclose(slopes[0.125], 8 * slopes[1.0])

# %% [markdown]
# The package adds a small number, eps = 1e-6, under the root in |w|, so that a weight of zeros does no harm. We set it
# to 0 here, to see the law in its pure form.
#
# ## So the weight can only grow
#
# Walk from w at a right angle to it. By Pythagoras you end farther from 0, whichever of the two ways you walk:
#
#     |w - lr g|^2  =  |w|^2 + lr^2 |g|^2
#
# Plain descent therefore never shortens a weight. We let it learn a direction from noisy batches of 16 examples. The
# left picture shows the length, the right one by how much each step turns the arrow.


# %%
def turn(a, b):
    """The angle between two arrows, in degrees."""
    return np.degrees(np.arccos(np.clip(a @ b / np.linalg.norm(a) / np.linalg.norm(b), -1, 1)))


def learn(lr, adam=False, length=1.0, count=steps):
    """Length of the weight before every step, and the turn of every step."""
    rng = np.random.default_rng(3)
    target, w = rng.normal(size=20), Parameter(length * v)
    optimiser = Adam([("w", w)], lr=lr)
    lengths, turns = [], []
    for _ in range(count):
        x = rng.normal(size=(16, 20))
        s = np.sign(x @ target + rng.normal(size=16))[:, None]
        w.grad = None
        answer = ops.matmul(Tensor(x), direction(w).reshape(-1, 1))
        ops.mean(ops.softplus(answer * Tensor(-3.0 * s))).backward()
        old = w.numpy().copy()
        if adam:
            optimiser.step()
        else:
            w.data -= lr * w.grad.data
        lengths.append(float(np.linalg.norm(old)))
        turns.append(float(turn(old, w.numpy())))
    return np.array(lengths), np.array(turns)


runs = {"descent, lr 0.1": learn(0.1), "descent, lr 0.3": learn(0.3), "descent, lr 1": learn(1.0),
        "Adam, lr 0.01": learn(0.01, adam=True)}
fig, (left, right) = lesson.figure(1, 2, height=3.0)
for name, (lengths, turns) in runs.items():
    left.plot(lengths)
    right.semilogy(np.arange(0, steps, 25) + 12, turns[:steps // 25 * 25].reshape(-1, 25).mean(axis=1), label=name)
    print(f"{name:16} length 1 -> {lengths[-1]:.1f}; shorter after {(np.diff(lengths) < -1e-12).mean():.0%} of steps")
left.set(xlabel="step", ylabel="length of the weight", title="the length")
right.set(xlabel="step", ylabel="turn per step, degrees", title="the turn (mean of 25 steps)")
right.legend(fontsize=8)
lesson.save(fig, "07_length_grows")
late = {name: turns[-100:].mean() for name, (_, turns) in runs.items()}
assert all((np.diff(lengths) > -1e-12).all() for name, (lengths, _) in runs.items() if "descent" in name)
assert (np.diff(runs["Adam, lr 0.01"][0]) < 0).any() and (flags.quick or runs["Adam, lr 0.01"][0][-1] > 1.3)
assert 0.7 < late["descent, lr 1"] / late["descent, lr 0.1"] < 1.4

# %% [markdown]
# With plain descent no step ever shortens the weight. A long weight has a small gradient, and the same step turns a
# long arrow less: the turn is about lr |G| / |w|^2. So the length is a brake. It adjusts itself: in the end
# rates that differ tenfold turn the weight equally fast, because the higher rate has grown the longer weight.
#
# Adam divides each number of g by another root, so its step does *not* stand at a right angle to w, and many a step
# shortens it. Over the full run the weight grows all the same.
#
# ## The initial length divides the learning rate
#
# The first turn shows it. Make the initial weight an eighth as long and keep the rate.

# %%
for name, lr, adam, expected in (("descent", 1e-4, False, 64), ("Adam", 1e-4, True, 8)):
    usual, short = (learn(lr, adam, length, count=1)[1][0] for length in (1.0, 0.125))
    print(f"{name}: with an eighth of the length the first step turns the weight {short / usual:.0f} times as far")
    assert 0.9 < short / usual / expected < 1.1

# %% [markdown]
# The length acts on descent twice, by the larger gradient and the shorter arrow: 8 * 8. Adam's steps have the length
# that the rate gives them, so there it acts once. RESULTS.md tells how this matters (trained with Adam): a rate of
# 0.016 with ordinary weights drove most slopes of the activations out of [0, 1]. A rate of 0.002 with weights an eighth
# as long moves directions as fast, and the slopes, which have no length to divide by, slowly.
#
# ## Transposed convolutions
#
# What is one unit of a transposed convolution? Its weight is (inputs, outputs, k, k). All numbers that make
# *one output channel* belong together: the norm runs over inputs and taps. But an output pixel meets only a part of
# them. With kernel 4 and stride 2 it lies under 2 x 2 patches, so it is a sum over a quarter of the taps. Divided by
# the length of all of them it has a quarter of the variance. The remedy is to count a quarter:
#
#     n_o  =  sqrt( 1 / stride^2  *  sum of w^2 over inputs and taps )

# %%
grown = ConvTranspose2d(64, 32, 4, stride=2, padding=1, norm="strict", rng=np.random.default_rng(4), dtype=np.float64)
maps = Tensor(np.random.default_rng(5).normal(size=(4, 64, 12, 12)))
weight = grown.weight.numpy()[0]
n = np.sqrt((weight ** 2).sum(axis=(0, 2, 3), keepdims=True) / 4)
with no_grad():
    assert np.allclose(grown.filters().numpy()[0], weight / n, rtol=1e-4, atol=1e-6)
    scaled = grown(maps).numpy()[:, :, 2:-2, 2:-2]  # pixels at the border lie under fewer patches
    grown.norm_scale = 1.0
    unscaled = grown(maps).numpy()[:, :, 2:-2, 2:-2]
print(f"input 1.00, output with 1/4 {scaled.std():.2f}, without {unscaled.std():.2f} (standard deviations)")
assert 0.9 < scaled.std() < 1.1 and 0.45 < unscaled.std() < 0.55

# %% [markdown]
# ## An activation whose bend can move
#
# A strict layer has no bias, so it cannot choose where the PReLU behind it bends. The *translated* PReLU of Xiang & Li
# has the place of the bend as a parameter t. It is PReLU in axes that are moved along the diagonal:
#
#     TPReLU(x)  =  x  where x > t,  else  a (x - t) + t

# %%
line = np.linspace(-2, 2, 201)
fig, ax = lesson.figure(1, 1, height=2.6)
for slope, shift in ((0.2, 0.0), (0.2, -1.0), (0.2, 1.0), (0.6, 1.0)):
    bend = TPReLU(1, slope=slope, dtype=np.float64)
    bend.shift.data[:] = shift
    ax.plot(line, bend(Tensor(line[:, None])).numpy()[:, 0], label=f"slope a {slope}, shift t {shift:g}")
    assert np.allclose(bend(Tensor(np.array([[shift]]))).numpy(), shift)  # the bend lies on the diagonal
ax.set(xlabel="input", ylabel="output")
ax.legend(loc="upper left", fontsize=9)
lesson.save(fig, "07_tprelu")


# %% [markdown]
# ## The size of a signal in a deep net
#
# Eight layers of 256 units, random weights, PReLU after each. We multiply the usual initial weights by a factor and
# measure the root mean square of the signal behind every layer.


# %%
def sizes(factor, norm):
    rng = np.random.default_rng(6)
    y = Tensor(rng.normal(size=(64, 256)))
    measured = [1.0]
    with no_grad():
        for _ in range(8):
            y = Sequential(Linear(256, 256, norm=norm, init_factor=factor, rng=rng, dtype=np.float64),
                           PReLU(256, dtype=np.float64))(y)
            measured.append(float(np.sqrt((y.numpy() ** 2).mean())))
    return measured


factors = (0.25, 0.5, 1.0, 2.0, 4.0)
fig, axes = lesson.figure(1, 2, height=3.0, sharey=True)
size = {}
for ax, norm, title in zip(axes, ("none", "strict"), ("ordinary layers", "weight normalisation"), strict=True):
    for i, factor in enumerate(factors):
        size[norm, factor] = sizes(factor, norm)
        ax.semilogy(size[norm, factor], "o-", ms=7 - i, label=f"{factor:g} times")
    ax.set(title=title, xlabel="layer")
axes[0].set_ylabel("root mean square")
axes[0].legend(fontsize=8, title="initial weights")
lesson.save(fig, "07_signal_size")
for norm in ("none", "strict"):
    print(f"{norm:6} after 8 layers:", ", ".join(f"{size[norm, f][-1]:.1g}" for f in factors))
assert size["none", 4.0][-1] / size["none", 0.25][-1] > 1e9
assert all(0.04 < size["strict", f][-1] < 0.12 for f in factors)

# %% [markdown]
# Without normalisation a factor acts once per layer: 16 times the weight makes 16^8 = 4 billion times the signal.
# Small signals have small gradients, and large ones make training jump. With normalisation
# all five curves are one (the dots lie on top of each other). It still falls: a layer keeps the size, but a PReLU of
# slope 0.2 passes only 0.72 of it. After eight layers 0.07 is left, whatever the weights were. Here is that 0.72: the
# half of the numbers that is positive stays, the other half is multiplied by 0.2.

# %%
kept = np.sqrt((1 + 0.2 ** 2) / 2)
print(f"one PReLU keeps {kept:.2f}, eight keep {kept ** 8:.2f}; measured {size['strict', 1.0][-1]:.2f}")
assert abs(kept - 0.72) < 0.005 and abs(kept ** 8 - 0.07) < 0.005

# %% [markdown]
# ## What you learned
#
# * Weight normalisation keeps the direction and removes the length. The gradient then stands at a right angle to w.
# * So plain descent can only lengthen a weight, and a longer weight turns more slowly: a brake that sets itself.
# * The initial length no longer changes the signal. It divides the learning rate instead.
# * A transposed convolution has one norm per output channel, and counts 1 / stride^2 of the squares.
#
# ## Exercises
#
# **1.** For the affine unit y = g (w . x) / |w| + b with one input row x, write dy/dw by hand. **2.** For a PReLU of
# slope a, find the factor on the usual initial weights, which are uniform in +-1 / sqrt(inputs), with which an ordinary
# deep net keeps the size of its signal. **3.** Write d TPReLU(x) / dt for an array x and numbers a and t.


# %%
def exercise_1(g, w, x):
    raise NotImplementedError("yours to write")


def check_1(slope):
    rng = np.random.default_rng(7)
    for g in (1.0, -2.5):
        w, x = Parameter(rng.normal(size=5)), rng.normal(size=5)
        ops.sum(direction(w) * Tensor(x) * g).backward()
        assert np.allclose(slope(g, w.numpy(), x), w.grad.numpy()), f"for g = {g} the tape gives something else"


lesson.exercise(exercise_1, check_1)


# %%
def exercise_2(a):
    raise NotImplementedError("yours to write")


def check_2(factor):
    for a in (0.0, 0.2, 0.7):
        y = np.random.default_rng(8).normal(size=(64, 256))
        for seed in range(8):
            y = Linear(256, 256, init_factor=factor(a), rng=np.random.default_rng(seed), dtype=float)(Tensor(y)).numpy()
            y = np.where(y > 0, y, a * y)
        left = np.sqrt((y ** 2).mean())
        assert 0.7 < left < 1.4, f"slope {a}: after 8 layers a signal of size 1 has size {left:.2g}"


lesson.exercise(exercise_2, check_2)


# %%
def exercise_3(x, a, t):
    raise NotImplementedError("yours to write")


def check_3(slope):
    x = np.array([-2.0, -0.4, 0.1, 0.9, 3.0])
    for a, t in ((0.2, 0.0), (0.5, 0.8), (0.0, -1.0)):
        bend = lambda t, a=a: np.where(x > t, x, a * (x - t) + t)  # noqa: E731 - it is differentiated by t
        assert np.allclose(slope(x, a, t), (bend(t + 1e-6) - bend(t - 1e-6)) / 2e-6, atol=1e-6), f"a = {a}, t = {t}"


lesson.exercise(exercise_3, check_3)
