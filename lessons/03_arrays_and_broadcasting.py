# %% [markdown]
# # 03 · Arrays and broadcasting
#
# **Goal.** Go from numbers to arrays. See why a rule replaces the local slope, why a gradient must be summed wherever
# NumPy repeated something, and why no gradient may be changed in place.
#
# **You need** lesson 02, and matrix products. **Minutes:** 20 to read, seconds to run.
#
# **The package's tests:** test_engine.py, test_ops.py

# %%
import itertools

import lesson
import numpy as np

flags = lesson.flags()
rng = np.random.default_rng(0)


# %% [markdown]
# ## From a slope to a rule
#
# If y = f(x) has n inputs and m outputs, its derivative is no single number. It is an m by n table, the *Jacobian* J:
# by how much does output i move if input j moves? Small steps add up as in a matrix product, dy = J dx.
#
# On the way back g is the gradient of the loss for y. The gradient for x is then J^T g. Build J by differences for a
# product with a fixed matrix, and compare both sides.


# %%
def jacobian(f, x, h=1e-6):
    """One column for each entry of x."""
    columns = []
    for place in np.ndindex(x.shape):
        step = np.zeros(x.shape)
        step[place] = h
        columns.append((f(x + step) - f(x - step)).ravel() / (2 * h))
    return np.array(columns).T


x, w, g = rng.normal(size=(3, 4)), rng.normal(size=(4, 2)), rng.normal(size=(3, 2))
J = jacobian(lambda x: x @ w, x)
print("J has the shape", J.shape)
assert J.shape == (6, 12)
assert np.allclose((J.T @ g.ravel()).reshape(3, 4), g @ w.T, atol=1e-8)

# %% [markdown]
# The last line is the point: J^T g is also g @ w.T, and that needs no J. For a real layer, 64 rows times a 512 by 512
# matrix, J would have over a billion entries. So each operation has a *rule*, a function that turns g into J^T g
# by the shortest way. It is called a vector-Jacobian product, *VJP*.

# %%
entries = (64 * 512) * (64 * 512)
print(f"entries of J for the real layer: {entries / 1e9:.1f} billion")
assert entries > 1e9

# %% [markdown]
# ## A test without J
#
# Write <p, q> for the sum of all p * q. The transpose of a matrix is the one that makes this true for every u and v:
#
#     <J u, v> = <u, J^T v>
#
# This is the *adjoint identity*. It checks a rule with two random arrays. Here it finds the two rules of the matrix
# product y = a @ b. Change a by u: y changes by u @ b. So <u @ b, v> must be <u, rule(v)>.

# %%
a, b, v = rng.normal(size=(3, 4)), rng.normal(size=(4, 2)), rng.normal(size=(3, 2))
u_a, u_b = rng.normal(size=a.shape), rng.normal(size=b.shape)
assert np.isclose(np.sum((u_a @ b) * v), np.sum(u_a * (v @ b.T)))  # the rule for a: g @ b.T
assert np.isclose(np.sum((a @ u_b) * v), np.sum(u_b * (a.T @ v)))  # the rule for b: a.T @ g
print("both rules of the product fulfil the identity")

# %% [markdown]
# The shapes alone almost dictate these rules: g is (3, 2), b.T is (2, 4), and a needs (3, 4).
#
# ## Broadcasting is an operation, too
#
# NumPy adds a (3, 1) and a (4,) array to a (3, 4) array: it repeats each along the missing length. Repeating is a
# linear map. Its matrix B is the Jacobian, a table of zeros and ones, and here it is.

# %%
x, z = np.array([[1.0], [2.0], [3.0]]), np.array([10.0, 20.0, 30.0, 40.0])
g = np.array([[1.0, 2, 3, 4], [0, 1, 0, 1], [5, 0, -5, 2]])
B = jacobian(lambda x: np.broadcast_to(x, (3, 4)), x).round()
print(B.T.astype(int))
assert np.array_equal(B.T @ g.ravel(), g.sum(axis=1))

# %% [markdown]
# Each row of B^T (printed) has a one wherever B made a copy. So B^T g adds up the gradients of all copies: **the
# transpose of repeating is summing.** No new idea is needed. It is the rule of lesson 02, "a number used several times
# adds up its parts", since a repeated number *is* used several times.


# %%
def sum_to(g, shape):
    """Sum g down to `shape`: the transpose of broadcasting `shape` up to g's shape."""
    g = g.sum(axis=tuple(range(g.ndim - len(shape))))  # axes that NumPy put in front
    repeated = tuple(i for i, n in enumerate(shape) if n == 1 and g.shape[i] != 1)
    return g.sum(axis=repeated, keepdims=True)


for small, big in (((3, 1), (3, 4)), ((4,), (3, 4)), ((), (2, 5)), ((2, 1, 1), (2, 3, 4)), ((1, 3), (6, 2, 3))):
    u, v = rng.normal(size=small), rng.normal(size=big)
    assert np.isclose(np.sum(np.broadcast_to(u, big) * v), np.sum(u * sum_to(v, small)))
print("<B u, v> = <u, sum_to(v)> for five pairs of shapes")


# %%
def show(ax, values, title, colour):
    """An array as a grid of its numbers; a vector as a row."""
    for (i, j), number in np.ndenumerate(np.atleast_2d(values)):
        ax.text(j, i, f"{number:g}", ha="center", va="center")
        ax.add_patch(lesson.plt.Rectangle((j - 0.5, i - 0.5), 1, 1, fc=colour, ec="white", lw=2, alpha=0.3))
    ax.set(title=f"{title}\n{np.shape(values)}", xlim=(-0.5, 3.5), ylim=(2.5, -0.5), xticks=[], yticks=[],
           aspect="equal")
    ax.spines[:].set_visible(False)


fig, axes = lesson.figure(2, 4, height=1.9)
for row, name, start in zip(axes, "xz", (x, z), strict=True):
    show(row[0], start, name, lesson.BLUE)
    show(row[1], np.broadcast_to(start, g.shape), f"{name} repeated", lesson.BLUE)
    show(row[2], g, "gradient that arrives", lesson.ORANGE)
    show(row[3], sum_to(g, start.shape), f"summed back to {name}", lesson.ORANGE)
lesson.save(fig, "03_repeat_and_sum")
assert sum_to(g, x.shape).ravel().tolist() == [10, 2, 2] and sum_to(g, z.shape).tolist() == [6, 3, -2, 7]

# %% [markdown]
# Read each row from left to right: values are blue, gradients orange. In the upper row x is repeated along the columns,
# so its gradient is summed along them: 1 + 2 + 3 + 4 = 10. In the lower row z is repeated downwards, and the same g is
# summed downwards.
#
# ## What if we forget?
#
# Say that z is a *bias*, a number per column that a net learns by small steps against its gradient. Unsummed, g has the
# wrong shape for it. NumPy raises no error. It broadcasts again:

# %%
bias = np.zeros(4)
bias = bias - 0.1 * g  # g should have been summed first
print("the bias had the shape (4,), and now it has", bias.shape)
assert bias.shape == (3, 4)

# %% [markdown]
# A number per column has become a number per row and column. The first array with another number of rows will fail, far
# from here. So the summing stands in one central place, and not in the rule of every operation.
#
# ## The miniature
#
# It is the class of lesson 02 with rules in place of slopes, and with gradients kept in a dictionary.

# %%
births = itertools.count()


class Array:
    def __init__(self, data, sources=()):
        self.data, self.sources, self.born = np.asarray(data, float), sources, next(births)

    def __add__(self, other):
        return Array(self.data + other.data, ((self, lambda g: g), (other, lambda g: g)))

    def __mul__(self, other):
        return Array(self.data * other.data, ((self, lambda g: g * other.data), (other, lambda g: g * self.data)))

    def __matmul__(self, other):
        return Array(self.data @ other.data, ((self, lambda g: g @ other.data.T), (other, lambda g: self.data.T @ g)))

    def tanh(self):
        out = np.tanh(self.data)
        return Array(out, ((self, lambda g: g * (1 - out * out)),))


def fresh(total, part):
    return total + part  # a new array


def gradients(root, seed, add=fresh):
    """{Array: gradient} for everything below root; seed is the gradient for root itself."""
    nodes, stack, arrived = {root}, [root], {root: seed}
    while stack:
        for source, _ in stack.pop().sources:
            if source not in nodes:
                nodes.add(source)
                stack.append(source)
    for node in sorted(nodes, key=lambda n: -n.born):
        for source, rule in node.sources:
            part = rule(arrived[node])
            if part.shape != source.data.shape:  # central: undo what was broadcast
                part = sum_to(part, source.data.shape)
            arrived[source] = add(arrived[source], part) if source in arrived else part
    return arrived


# %% [markdown]
# ## Two names for one array
#
# `fresh` makes a new array for each sum. Would it not be cheaper to add in place, `total += part`? Try it on
#
#     y = 10 x + (x + z)        so dy/dx = 11 and dy/dz = 1


# %%
def in_place(total, part):
    total += part
    return total


def two_gradients(add):
    x, z, ten = Array(np.ones(3)), Array(np.ones(3)), Array(10.0)
    y = x * ten + (x + z)
    seed = np.ones(3)
    g = gradients(y, seed, add)
    return g[x], g[z], seed


for add in (fresh, in_place):
    g_x, g_z, seed = two_gradients(add)
    print(f"{add.__name__:8}: dy/dx {g_x}, dy/dz {g_z}, seed afterwards {seed}")
right, wrong = two_gradients(fresh), two_gradients(in_place)
assert [r[0] for r in right] == [11, 1, 1] and [w[0] for w in wrong] == [11, 11, 11]

# %% [markdown]
# Adding in place got dy/dx right, and without an error it changed dy/dz to 11. The caller's seed changed as well. The
# rules of + return g itself and not a copy, so x, z, `x + z` and the seed all held *one* array under several names.
# This is called *aliasing*. The addition for x wrote into all of them.
#
# A copy in every rule would help too, and cost memory each time. A new array only where two parts meet costs less.
# **So in tinygan no gradient is ever written in place.** Its `backward` puts a result in `.grad`, and no two of them
# share memory:

# %%
from tinygan import Tensor, grad, ops  # noqa: E402 - after the miniature, on purpose

tx, tz, seed = Tensor(np.ones(3), requires_grad=True), Tensor(np.ones(3), requires_grad=True), np.ones(3)
(tx * 10.0 + (tx + tz)).backward(seed)
print(f"tinygan : dy/dx {tx.grad.numpy()}, dy/dz {tz.grad.numpy()}, seed afterwards {seed}")
assert tx.grad.numpy()[0] == 11 and tz.grad.numpy()[0] == 1 and seed[0] == 1
kept = tx.grad.numpy(), tz.grad.numpy(), seed
assert not any(np.may_share_memory(p, q) for p, q in itertools.combinations(kept, 2))

# %% [markdown]
# ## The same in the package
#
# Two layers of a net, with a bias per column and a factor per row. The miniature and tinygan must agree on every
# gradient.


# %%
def net(x, w1, b1, w2, b2, per_sample, tanh):
    return (tanh(x @ w1 + b1) @ w2 + b2) * per_sample


shapes = {"x": (5, 3), "w1": (3, 4), "b1": (4,), "w2": (4, 2), "b2": (1, 2), "per_sample": (5, 1)}
start = [rng.normal(size=shape) for shape in shapes.values()]
seed = rng.normal(size=(5, 2))
mine, theirs = [Array(s) for s in start], [Tensor(s, requires_grad=True) for s in start]
computed = gradients(net(*mine, Array.tanh), seed)
expected = grad(net(*theirs, ops.tanh), theirs, seed=seed)
for name, array, tensor in zip(shapes, mine, expected, strict=True):
    assert computed[array].shape == tensor.shape and np.allclose(computed[array], tensor.numpy(), rtol=1e-12), name
print("equal gradients for", ", ".join(shapes))

# %% [markdown]
# You now know tinygan/engine/tensor.py. The package adds names, error messages and one more idea: its rules are made of
# operations, so that the way back is a graph as well, and can be differentiated again.
#
# ## What you learned
#
# * For arrays a rule turns g into J^T g, without J.
# * A rule is right if <J u, v> = <u, rule(v)> for random u and v.
# * What was repeated on the way there is summed on the way back, in one central place.
# * Two gradients may be one array. Writing into it changes both.
#
# ## Exercises
#
# **1.** The rule of `x.mean(axis=0)`, for an x with two axes. **2.** The rule of `x[index]`, where `index` is an array
# that may name a row twice. **3.** One matrix w serves a batch: x (n, i, k) @ w (k, m). The rule for w.


# %%
def adjoint(f, rule, shape, rng):
    """Check that rule(v) fulfils the identity for the linear f."""
    u = rng.normal(size=shape)
    v = rng.normal(size=np.shape(f(u)))
    back = rule(v)
    assert np.shape(back) == shape, f"the gradient has the shape {np.shape(back)}, should be {shape}"
    assert np.isclose(np.sum(f(u) * v), np.sum(u * back)), f"<f(u), v> is not <u, rule(v)> for the shape {shape}"


def exercise_1(g, shape):
    """g: (columns,). shape: (rows, columns), the shape of x."""
    raise NotImplementedError("yours to write")


def check_1(rule):
    for shape in ((3, 4), (7, 2), (1, 5)):
        adjoint(lambda x: x.mean(axis=0), lambda g, shape=shape: rule(g, shape), shape, np.random.default_rng(1))


lesson.exercise(exercise_1, check_1)


# %%
def exercise_2(g, index, shape):
    """g: the gradient for x[index]. shape: that of x."""
    raise NotImplementedError("yours to write")


def check_2(rule):
    for index in ([0, 2], [2, 0, 2, 2], [1, 1]):
        index = np.array(index)
        adjoint(lambda x, index=index: x[index], lambda g, index=index: rule(g, index, (4, 3)), (4, 3),
                np.random.default_rng(2))


lesson.exercise(exercise_2, check_2)


# %%
def exercise_3(g, x):
    """g: (n, i, m), the gradient for x @ w. x: (n, i, k). The result: (k, m)."""
    raise NotImplementedError("yours to write")


def check_3(rule):
    for n, i, k, m in ((2, 3, 4, 5), (6, 1, 2, 3)):
        x = np.random.default_rng(3).normal(size=(n, i, k))
        adjoint(lambda w, x=x: x @ w, lambda g, x=x: rule(g, x), (k, m), np.random.default_rng(4))


lesson.exercise(exercise_3, check_3)
