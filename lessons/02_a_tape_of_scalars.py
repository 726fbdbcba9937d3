# %% [markdown]
# # 02 · A tape of scalars
#
# **Goal.** Build the engine that finds all derivatives of a computation, for single numbers. See that the order of its
# walk decides whether the result is right, and whether it comes at all.
#
# **You need** lesson 01. **Minutes:** 20 to read, seconds to run.
#
# **The package's tests:** test_engine.py

# %%
import itertools

import lesson
import numpy as np

flags = lesson.flags()


# %% [markdown]
# ## From a tape to a graph
#
# The tape of lesson 01 was one list for everything. It grew for ever, and a second computation landed on the same
# list. A better place for the notes is the result itself: each number stores its *sources*, that is, from which
# numbers it was made, and for each of them the *local slope*, the derivative of this one step.
#
#     result        local slopes
#     a + b         1 for a         1 for b
#     a * b         b for a         a for b
#     a ** p        p * a ** (p - 1)
#     tanh(a)       1 - result * result
#
# (p is an ordinary number.) This is all that the way back needs: by the chain rule, the part for a source is the
# gradient of the result times the local slope, whatever came before or after. Numbers are then nodes, with an arrow
# from each source to its result: a *graph*. Each node also gets a running number, `born`. It will be useful soon.

# %%
births = itertools.count()


class Value:
    def __init__(self, value, sources=()):
        self.value, self.grad = value, 0.0
        self.sources = sources  # pairs (input, local slope)
        self.born = next(births)

    def __add__(self, other):
        return Value(self.value + other.value, ((self, 1.0), (other, 1.0)))

    def __mul__(self, other):
        return Value(self.value * other.value, ((self, other.value), (other, self.value)))

    def __pow__(self, p):
        return Value(self.value ** p, ((self, p * self.value ** (p - 1)),))

    def tanh(self):
        out = float(np.tanh(self.value))
        return Value(out, ((self, 1 - out * out),))


# %% [markdown]
# ## Why gradients add
#
# In `tanh(a * b) * a` there are two uses of a. Call the first a1 and the second a2, and let them vary apart. A small
# change d of a moves both, so the result moves by (slope for a1 + slope for a2) * d. Differences show it:


# %%
def two_uses(a1, a2, b=-1.3):
    return np.tanh(a1 * b) * a2


def slope(f, x, h=1e-6):
    return (f(x + h) - f(x - h)) / (2 * h)


first, second = slope(lambda t: two_uses(t, 0.7), 0.7), slope(lambda t: two_uses(0.7, t), 0.7)
both = slope(lambda t: two_uses(t, t), 0.7)
print(f"first use {first:.4f} + second use {second:.4f} = {both:.4f}, the slope of both together")
assert abs(first + second - both) < 1e-8

# %% [markdown]
# ## A walk that looks right
#
# A node's *gradient* is the derivative of the result by it; the result's own is 1. Start there. Give each source its
# part, gradient times local slope, and go on from there at once. Try it on two additions:
#
#     b = a + a        c = b + b        so c = 4 a, and dc/da = 4


# %%
def eager_walk(node):
    for source, local in node.sources:
        source.grad += node.grad * local
        eager_walk(source)


a = Value(3.0)
b = a + a
c = b + b
c.grad = 1.0
eager_walk(c)
print(f"eager walk: dc/da = {a.grad:.0f}, and it should be 4")
assert a.grad == 6.0

# %% [markdown]
# The walk went on too early. c gave its first part to b, and b, with a gradient of 1, passed 1 + 1 on to a. Then c
# gave b its second part. Now b held 2, and passed on 2 + 2: **the first part went down a second time.** 2 + 4 = 6.
#
# ## A first repair, and its price
#
# Pass on only what is new. Every path from c to a is then walked once, and the parts add up to the right number.


# %%
def path_walk(node, part):
    """Add `part` to the node, part times slope to each source, and so on; return how many calls this took."""
    node.grad += part
    return 1 + sum(path_walk(source, part * local) for source, local in node.sources)


def doublings(count):
    """start, and the node reached by doubling it `count` times."""
    node = start = Value(1.0)
    for _ in range(count):
        node = node + node
    return start, node


start, end = doublings(2)
calls = path_walk(end, 1.0)
print(f"path walk: {start.grad:.0f} in {calls} calls")
assert start.grad == 4.0 and calls == 7

# %% [markdown]
# The number is right, but the paths are many: each doubling doubles them. Real nets use one number in many places, and
# forty doublings would need about 2 ** 41 calls, two million million.
#
# ## The order that works
#
# A node may pass its gradient on only when the parts of *all* its uses on the way to the result have been added. (Uses
# elsewhere do not count.) So we need an order in which each node comes after everything that was made from it: a
# *topological order*, read backwards. The running numbers give it for free. A number can only be made from numbers that
# exist, so **a node is always newer than its sources**. Sort by `born`, the newest first. Call the result we start from
# the *root*.


# %%
def newest_first(root):
    """All nodes that root was made from, itself included. An explicit stack takes the place of recursion."""
    nodes, stack = {root}, [root]
    while stack:
        for source, _ in stack.pop().sources:
            if source not in nodes:
                nodes.add(source)
                stack.append(source)
    return sorted(nodes, key=lambda node: -node.born)


def backward(root):
    """Set the gradient of every node below root; return how many nodes were visited."""
    order = newest_first(root)
    for node in order:
        node.grad = 0.0  # clear what an earlier walk left
    root.grad = 1.0
    for node in order:
        for source, local in node.sources:
            source.grad += node.grad * local
    return len(order)


print(f"ordered walk: {backward(c)} nodes, dc/da = {a.grad:.0f}")
assert a.grad == 4.0

# %%
depths = range(1, 9 if flags.quick else 17)  # fewer with --quick
cost = {"path by path": [path_walk(doublings(n)[1], 1.0) for n in depths],
        "newest first": [backward(doublings(n)[1]) for n in depths]}
fig, ax = lesson.figure(height=2.6)
for (name, counts), colour in zip(cost.items(), (lesson.RED, lesson.BLUE), strict=True):
    ax.semilogy(depths, counts, "o-", ms=4, color=colour, label=name)
ax.set(xlabel="doublings", ylabel="nodes visited", title="the price of walking every path")
ax.legend()
lesson.save(fig, "02_cost_of_paths")
assert cost["path by path"] == [2 ** (n + 1) - 1 for n in depths] and cost["newest first"] == [n + 1 for n in depths]

# %% [markdown]
# On this scale a straight line means growth by a constant factor. The red line doubles with each step. The blue one
# visits one node more.
#
# ## Ten thousand links
#
# A function that calls itself goes one level deeper with each link, and Python stops it at about a thousand levels.
# Our stack is an ordinary list, which only the memory limits.

# %%
links, x = 10_000, Value(1.0)
far = x
for _ in range(links):
    far = far * Value(1.0001)
try:
    path_walk(far, 1.0)
    failed = False
except RecursionError:
    failed = True
backward(far)
expected = 1.0001 ** links
print(f"recursion fails: {failed}; the stack finds {x.grad:.4f}, and it should be {expected:.4f}")
assert failed and abs(x.grad / expected - 1) < 1e-9

# %% [markdown]
# ## A picture of the graph
#
# Here is the function of lesson 01 with b added at the end. Values flow along the arrows, and each arrow carries its
# local slope. Gradients flow against them.


# %%
def draw(ax, nodes):
    """nodes: {Value: (label, column, row)}. An arrow for every source, with its local slope."""
    for node, (label, column, row) in nodes.items():
        ax.text(column, row, f"{label}\n{node.value:.2f}\ngrad {node.grad:.2f}", ha="center", va="center", fontsize=9,
                bbox={"boxstyle": "round", "fc": "white", "ec": lesson.BLUE}, zorder=3)
        for source, local in node.sources:
            _, from_column, from_row = nodes[source]
            ax.annotate("", (column, row), (from_column, from_row), zorder=1,
                        arrowprops={"arrowstyle": "->", "color": lesson.GREY, "shrinkA": 30, "shrinkB": 33})
            ax.text((column + from_column) / 2, (row + from_row) / 2, f"{local:.2f}", color=lesson.RED, fontsize=9,
                    ha="center", va="center", bbox={"fc": "white", "ec": "none", "pad": 1}, zorder=2)
    ax.set(xlim=(-0.5, 4.5), ylim=(-0.5, 2.5))
    ax.axis("off")


a, b = Value(0.7), Value(-1.3)
u = a * b
v = u.tanh()
w = v * a
y = w + b
backward(y)
fig, ax = lesson.figure(height=3.2)
draw(ax, {a: ("a", 0, 2), b: ("b", 0, 0), u: ("u = a b", 1, 1), v: ("v = tanh u", 2, 1), w: ("w = v a", 3, 1.7),
          y: ("y = w + b", 4, 0.8)})
lesson.save(fig, "02_graph")

# %% [markdown]
# Check one number by eye. Two paths lead from b to y: one straight, with slope 1, and one through u, v and w. Multiply
# the red numbers along each path, and add the two products. This is the gradient of b.

# %%
(_, u_to_b), (_, v_to_u), (_, w_to_v) = u.sources[1], v.sources[0], w.sources[0]
print(f"two paths: 1 + {w_to_v * v_to_u * u_to_b:.4f} = {b.grad:.4f}")
assert abs(1 + w_to_v * v_to_u * u_to_b - b.grad) < 1e-15

# %% [markdown]
# ## The same in the package
#
# tinygan.Tensor is this class for arrays. It keeps a *rule* for each source in place of a slope (lesson 03 says why),
# and the walk is the same. Compare them on random programs: each line takes two earlier results and combines them.

# %%
from tinygan import Tensor, grad, ops  # noqa: E402 - after the miniature, on purpose

# tanh is passed in: Value.tanh for ours, ops.tanh for tinygan's.
operations = [lambda p, q, tanh: p + q, lambda p, q, tanh: p * q, lambda p, q, tanh: tanh(p) + q ** 2]


def random_program(rng, lines=40):
    """A list of (operation, place of the first operand, place of the second one)."""
    return [(rng.choice(operations), *rng.integers(0, 3 + line, size=2)) for line in range(lines)]  # 3 leaves first


def run(program, leaves, tanh):
    results, total = list(leaves), leaves[0]
    for operation, i, j in program:
        results.append(tanh(operation(results[i], results[j], tanh)))
        total = total + results[-1]  # everything takes part, and tanh keeps it small
    return total


rng, worst = np.random.default_rng(0), 0.0
for _ in range(20):
    program, start = random_program(rng), rng.normal(size=3)
    mine, theirs = [Value(s) for s in start], [Tensor(np.array(s), requires_grad=True) for s in start]
    backward(run(program, mine, Value.tanh))
    # grad(result, leaves) gives the leaves' gradients.
    for value, g in zip(mine, grad(run(program, theirs, ops.tanh), theirs), strict=True):
        worst = max(worst, abs(value.grad - g.item()) / (1 + abs(value.grad)))
print(f"20 random programs: largest relative difference below 1e-10: {worst < 1e-10}")
assert worst < 1e-10

# %% [markdown]
# ## What you learned
#
# * A result stores its sources, the local slopes and its running number. The chain rule needs no more.
# * A number that is used several times adds up the parts of its gradient, since a change of it acts through each use.
# * A node passes its gradient on when the parts of all its uses have been added. Newest first is such an order.
# * With that order each node is visited once. Without recursion the depth does not matter.
#
# ## Exercises
#
# **1.** Write the quotient a / b of two Values as one new Value with both sources and their slopes, without `*` and
# `**` of Values. **2.** How many paths lead from `leaf` up to `root`, 0 if there is none? After 60 doublings nobody can
# walk them all, but an ordered walk can count them. Use `newest_first`.


# %%
def exercise_1(a, b):
    raise NotImplementedError("yours to write")


def check_1(quotient):
    for at_a, at_b in ((3.0, 2.0), (-0.5, 0.8), (1.2, -3.0)):
        a, b = Value(at_a), Value(at_b)
        q = quotient(a, b)
        assert np.isclose(q.value, at_a / at_b), "its value should be a / b"
        assert {source for source, _ in q.sources} == {a, b}, "its sources should be a and b themselves"
        backward(q)
        assert np.isclose(a.grad, 1 / at_b), "the slope for a is wrong"
        assert np.isclose(b.grad, slope(lambda t, at_a=at_a: at_a / t, at_b)), "the slope for b is wrong"


lesson.exercise(exercise_1, check_1)


# %%
def exercise_2(root, leaf):
    raise NotImplementedError("yours to write")


def check_2(paths):
    for count in (1, 5, 60):
        start, end = doublings(count)
        assert paths(end, start) == 2 ** count, f"{count} doublings make {2 ** count} paths"
    assert paths(y, a) == 2 and paths(w, u) == 1 and paths(u, w) == 0, "see the picture: y to a, w to u, u to w"


lesson.exercise(exercise_2, check_2)
