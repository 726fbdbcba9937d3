# %% [markdown]
# # 01 · A derivative, three ways
#
# **Goal.** Compute one derivative by a difference, by hand, and by a tape that records what was computed. See how large
# a difference's error is, and why no step size makes it go away.
#
# **You need** Python and the chain rule. **Minutes:** 15 to read, seconds to run.
#
# **The package's tests:** test_engine.py, test_gradcheck.py

# %%
import lesson
import numpy as np

flags = lesson.flags()


# %% [markdown]
# ## The function
#
# A net is a long chain of simple functions. Ours has three links:
#
#     u = a * b        v = tanh(u)        y = v * a
#
# tanh bends any number into -1 ... 1; its derivative is 1 - tanh * tanh. We want dy/da: by how much does y change if a
# changes a little? Note that a is used twice.

# %%
def f(a, b):
    return np.tanh(a * b) * a


a, b = 0.7, -1.3
print(f"y = {f(a, b):.4f}")

# %% [markdown]
# ## First way: a difference
#
# The definition of a derivative is a limit. Without a limit, with a small step h, it is a *finite difference*. How
# wrong is it? Taylor's series tells:
#
#     f(x + h)  =  f + h f' + h^2 / 2 f'' + h^3 / 6 f''' + ...
#
# The forward difference below drops everything from h^2 on and divides by h: an error of about h. The central one takes
# points on both sides. In f(x - h) the terms with h and h^3 change sign, so that f and the h^2 term cancel in the
# subtraction: an error of about h * h.


# %%
def forward_difference(f, x, h):
    return (f(x + h) - f(x)) / h


def central_difference(f, x, h):
    return (f(x + h) - f(x - h)) / (2 * h)


rough = central_difference(lambda a: f(a, b), a, 1e-5)
print(f"difference: {rough:.4f}")

# %% [markdown]
# ## Second way: by hand
#
# The chain rule, link by link, from the end to the start. Each variable gets a *gradient*, the derivative of y by that
# variable. We write `g_u` for dy/du.
#
#     y = v * a      gives   g_v = a          and   a first part of g_a, which is v
#     v = tanh(u)    gives   g_u = g_v * (1 - v * v)
#     u = a * b      gives   a second part of g_a, which is g_u * b
#
# A small change of a moves y twice: through u, and directly. The two moves add up, as the product rule says, and so the
# two parts are *added*.


# %%
def slope_by_hand(a, b):
    v = np.tanh(a * b)
    g_v = a
    g_u = g_v * (1 - v * v)
    return v + g_u * b


exact = slope_by_hand(a, b)
print(f"by hand:    {exact:.4f}")
assert abs(rough - exact) < 1e-8

# %% [markdown]
# ## Third way: by a tape
#
# What we did by hand was mechanical: walk through the operations backwards, and multiply by a known local derivative.
# So a program can do it. While y is computed, every operation appends to a list, the *tape*, a function that adds its
# parts of the gradients on the way back.


# %%
tape = []


class Number:
    def __init__(self, value):
        self.value, self.grad = value, 0.0

    def __mul__(self, other):
        out = Number(self.value * other.value)

        def back():  # each factor gets the other one; += because it may be used elsewhere, too
            self.grad += out.grad * other.value
            other.grad += out.grad * self.value

        tape.append(back)
        return out

    def tanh(self):
        out = Number(np.tanh(self.value))

        def back():
            self.grad += out.grad * (1 - out.value ** 2)

        tape.append(back)
        return out


x, z = Number(a), Number(b)
y = (x * z).tanh() * x
y.grad = 1.0  # dy/dy
for back in reversed(tape):
    back()
print(f"by tape:    {x.grad:.4f}, and dy/db came along for free: {z.grad:.4f}")
assert abs(x.grad - exact) < 1e-15

# %% [markdown]
# A net has a million numbers to learn, its *weights*. For as many derivatives, differences need two million calls of f.
# The tape needs one call and one walk back, about the work of a few calls. Its price is memory: every result in between
# is kept until the walk. This is called reverse-mode automatic differentiation, or backpropagation.
#
# ## How wrong is a difference?
#
# A smaller step should give a smaller error. It does, until it does not.

# %%
steps = 10.0 ** np.arange(-15, 0.1, 0.5)
exact32 = slope_by_hand(np.float32(a), np.float32(b))  # 0.7 rounded to float32 is another number, with another slope


def errors(rule, dtype, exact):
    a_, b_ = dtype(a), dtype(b)
    return [abs(float(rule(lambda t: f(t, b_), a_, dtype(h))) - float(exact)) for h in steps]


fig, axes = lesson.figure(1, 2, height=3.0, sharey=True)
both = (np.float64, exact), (np.float32, exact32)
for ax, (dtype, exact_here) in zip(axes, both, strict=True):
    ax.loglog(steps, np.maximum(errors(forward_difference, dtype, exact_here), 1e-17), "o-", ms=3, label="forward")
    ax.loglog(steps, np.maximum(errors(central_difference, dtype, exact_here), 1e-17), "o-", ms=3, label="central")
    ax.set(title=dtype.__name__, xlabel="step h")
axes[0].set_ylabel("error of the slope")
axes[0].legend()
lesson.save(fig, "01_error_against_step")

# %% [markdown]
# Read each curve from the right. Both axes are logarithmic, so a power of h is a straight line: forward falls like h,
# central like h * h. Then the error rises again. f is known to about 16 digits in float64 and 7 in float32; f(a + h)
# and f(a - h) agree in most of them, and the subtraction leaves only the noisy rest. Divided by a tiny h, the noise
# grows. (Far left the curve for float32 is flat: a + h *is* a there, and the difference is 0.) For the central rule:
#
#     error  =  about h * h  (the cut-off series)  +  about eps / h  (the lost digits)
#
# eps is the gap between 1 and the next number, 2e-16 in float64 and 1e-7 in float32. The sum is smallest about where
# its parts are equal, h = eps ** (1/3): 6e-6 in float64, 5e-3 in float32. The error is then about eps ** (2/3), which
# is 4e-11 and 2e-5; a single lucky point may lie below. **In float32 a correct gradient and one that is wrong by 1 in
# 100,000 look the same.** That is why every gradient check of this project computes in float64.

# %%
best = {}
for dtype, exact_here in both:
    measured = errors(central_difference, dtype, exact_here)
    best[dtype], h = min((error, h) for error, h in zip(measured, steps, strict=True) if h > np.finfo(dtype).eps)
    print(f"{dtype.__name__}: the best central error is 1e{np.log10(best[dtype] + 1e-17):.0f}, at h = {h:.0e}")
    assert np.finfo(dtype).eps ** (1 / 3) / 100 < h < np.finfo(dtype).eps ** (1 / 3) * 100
assert best[np.float64] < 1e-9
assert 1e-9 < best[np.float32] < 1e-3

# %% [markdown]
# ## The same in the package
#
# tinygan, the package that this course belongs to, has the same tape for arrays. With `requires_grad=True` it keeps a
# gradient for a number. Your miniature and the package must agree.

# %%
from tinygan import Tensor, ops  # noqa: E402 - after the miniature, on purpose

ta, tb = Tensor(np.array(a), requires_grad=True), Tensor(np.array(b), requires_grad=True)
(ops.tanh(ta * tb) * ta).backward()
print(f"tinygan:    {ta.grad.numpy():.4f}")
assert abs(ta.grad.numpy() - x.grad) < 1e-15 and abs(tb.grad.numpy() - z.grad) < 1e-15

# %% [markdown]
# ## What you learned
#
# * A difference needs no thought and is never exact; its best step is neither large nor tiny.
# * The chain rule walked backwards gives all derivatives in one go. A variable that is used twice adds its parts.
# * float32 hides errors that float64 shows.
#
# ## Exercises
#
# **1.** Write the derivative of `sin(a * a) / a` by hand. **2.** A one-sided difference whose error shrinks with h * h
# exists: it uses f(x), f(x + h) and f(x + 2h), and no point to the left. Find the three weights (Taylor's series
# helps), and return the slope.
#
# Put your code in place of the `raise` lines, and run the lesson again.


# %%
def exercise_1(a):
    raise NotImplementedError("yours to write")


def check_1(slope):
    for a in (0.4, 1.3, -2.0):
        expected = central_difference(lambda t: np.sin(t * t) / t, a, 1e-5)
        assert np.isclose(slope(a), expected, rtol=1e-6), f"at a = {a} it should be near {expected:.3f}"


lesson.exercise(exercise_1, check_1)


# %%
def exercise_2(f, x, h):
    raise NotImplementedError("yours to write")


def check_2(rule):
    at = [abs(rule(np.exp, 0.3, h) - np.exp(0.3)) for h in (1e-2, 1e-3)]
    assert at[0] < 1e-3, "it is not near the derivative of exp"
    assert 50 < at[0] / at[1] < 200, "ten times less h should give a hundred times less error"
    points = []
    rule(lambda t: points.append(t) or t, 1.0, 0.1)
    assert min(points) >= 1.0, "it uses a point to the left of x"


lesson.exercise(exercise_2, check_2)
