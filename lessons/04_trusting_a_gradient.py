# %% [markdown]
# # 04 · Trusting a gradient
#
# **Goal.** Plant ten wrong rules, build four checkers, and see which checker refuses which rule. Then know why
# tinygan's own checker draws random numbers, computes in float64, and goes to the second order.
#
# **You need** lessons 01 and 03. **Minutes:** 25 to read, seconds to run.
#
# **The package's tests:** test_gradcheck.py, test_ops.py

# %%
import warnings

import lesson
import numpy as np

from tinygan import GradientError, KinkWarning, Tensor, check_grads, grad, ops, primitive

flags = lesson.flags()
runs = 20 if flags.quick else 100
rng = np.random.default_rng(0)


# %% [markdown]
# ## A wrong gradient raises no error
#
# An operation has two parts: the way forward, and a rule for the way back. Nothing forces the two to agree. `operation`
# makes a tinygan operation of any such pair. A rule gets g (the gradient of the output, also called the *cotangent*),
# the output y, and the inputs.


# %%
def operation(forward, *rules):
    """forward(*arrays), and for each input one rule(g, y, *tensors)."""
    @primitive
    def made(*inputs):
        return (forward(*[t.data for t in inputs]),
                tuple(lambda g, y, rule=rule: rule(g, y, *inputs) for rule in rules))

    return made


# %% [markdown]
# The operation `copy` gives back its input, so its rule is to give back g. The wrong rule `averaged` puts the mean of
# each row of g in the place of its entries. Learn with both: move p against the gradient until its copy equals a
# target.


# %%
def copy(a):
    return a * 1


def averaged(g, y, a):
    return ops.broadcast_to(g.mean(axis=1, keepdims=True), shape=g.shape)


target = Tensor(rng.normal(size=(5, 4)))
for name, rule in (("right", lambda g, y, a: g), ("wrong", averaged)):
    p, losses = Tensor(np.zeros((5, 4)), requires_grad=True), []
    for _ in range(60):
        loss = ((operation(copy, rule)(p) - target) ** 2).mean()
        losses.append(loss.item())
        p = Tensor(p.data - grad(loss, [p])[0].data, requires_grad=True)
    print(f"{name} rule: the loss falls from {losses[0]:.2f} to {losses[-1]:.2f}")
    assert (losses[-1] < 0.01) == (name == "right") and losses[-1] < 0.9 * losses[0]

# %% [markdown]
# With the wrong rule the loss falls, too. It looks like a hard task and is a bug. Only a check can tell.
#
# ## Ten wrong rules
#
# The inputs are random, so that each check can be repeated with others.

# %%
MATRIX = np.array([[0.9, -0.4, 0.3], [1.2, 0.5, -0.8], [-0.6, 1.1, 0.7]])


def square(n=3):
    return lambda rng: [rng.normal(size=(n, n))]


def with_zero(rng):
    return [np.array([[0.0, *rng.normal(size=2)], rng.normal(size=3)])]


def one_lost(g, y, a):
    mask = np.ones_like(g.data)
    mask[7, 3] = 0
    return g * (1 - y * y) * Tensor(mask)


def dtanh(g, y, a):
    return g * (1 - y * y)


def fixed(values, like):
    """A constant: no gradient goes through it."""
    return Tensor(np.asarray(values, like.dtype))


def times(a):
    return a @ MATRIX.astype(a.dtype)


# %%
WRONG = {
    "factor 2 missing": (operation(np.square, lambda g, y, a: g * a), square()),
    "matrix not transposed": (operation(times, lambda g, y, a: g @ fixed(MATRIX, a)), square()),
    "sign, negative inputs": (operation(np.square, lambda g, y, a: g * 2 * abs(a)), square()),
    "off by 1 in 1000": (operation(np.tanh, lambda g, y, a: dtanh(g, y, a) * 1.001), square()),
    "averaged over a row": (operation(copy, averaged), square()),
    "mean for a broadcast sum": (operation(np.add, lambda g, y, a, b: g, lambda g, y, a, b: g.mean(axis=0)),
                                 lambda rng: [rng.normal(size=(5, 3)), rng.normal(size=3)]),
    "cotangent ignored": (operation(np.square, lambda g, y, a: 2 * a), square()),
    "one entry of 100 lost": (operation(np.tanh, one_lost), square(10)),
    "NaN at 0": (operation(np.square, lambda g, y, a: g * 2 * y / a), with_zero),
    "values, not tensors": (operation(np.tanh, lambda g, y, a: g * fixed(1 - y.data ** 2, a)), square()),
}
RIGHT = {
    "right: tanh": (operation(np.tanh, dtanh), square()),
    "right: matrix": (operation(times, lambda g, y, a: g @ fixed(MATRIX.T, a)), square()),
    "right: broadcast sum": (operation(np.add, lambda g, y, a, b: g, lambda g, y, a, b: g),
                             WRONG["mean for a broadcast sum"][1]),
}

# %% [markdown]
# The last wrong rule gives the right numbers. But it takes the values out of the graph, so the gradient itself cannot
# be differentiated. Some losses contain a gradient, for instance the penalty on its size in WGAN-GP (Gulrajani et al.
# 2017). There this rule is wrong.
#
# ## Four checkers
#
# Each returns the error that it measured: absolute for small slopes, relative for those above 1. The first two are what
# one writes first: sum all outputs, and compare with differences. The cotangent of a sum is an array of ones. The first
# checker tries every entry in float32, the number format of nets. The second tries one entry, drawn at random.


# %%
def compare(function, arrays, cotangent, steps):
    """(numeric, analytic) for one step per input: <u, f(x + d) - f(x - d)> / 2 and <rule(u), d>."""
    ahead, behind = (function(*[Tensor(a + sign * s) for a, s in zip(arrays, steps, strict=True)]).data
                     for sign in (1, -1))
    tensors = [Tensor(a, requires_grad=True) for a in arrays]
    slopes = grad(function(*tensors), tensors, seed=cotangent)
    return float(((ahead - behind) * cotangent).sum() / 2), float(sum((g.data * s).sum()
                                                                     for g, s in zip(slopes, steps, strict=True)))


def entry(arrays, which, place, h):
    """Steps that move one entry of one input."""
    steps = [np.zeros_like(a) for a in arrays]
    steps[which][place] = h
    return steps


def error_at(function, arrays, which, place, h):
    ones = np.ones_like(function(*[Tensor(a) for a in arrays]).data)
    numeric, analytic = compare(function, arrays, ones, entry(arrays, which, place, h))
    return abs(numeric - analytic) / (h * max(1, abs(numeric / h)))


def every_entry_float32(function, arrays, rng, h=1e-2):
    small = [a.astype(np.float32) for a in arrays]
    errors = [error_at(function, small, i, place, h) for i, a in enumerate(small) for place in np.ndindex(a.shape)]
    return np.max(errors)  # unlike Python's max it never loses a NaN


def one_entry(function, arrays, rng, h=1e-5):
    which = rng.integers(len(arrays))
    return error_at(function, arrays, which, tuple(rng.integers(arrays[which].shape)), h)


# %% [markdown]
# The third checker is the adjoint identity of lesson 03. It draws a random cotangent u and a random direction d:
#
#     <u, f(x + h d) - f(x - h d)> / 2h      should be      <rule(u), d>
#
# Why random? If E is the error of the Jacobian, then the two sides differ by <u, E d>. With ones for u, every error
# whose columns sum to 0 is invisible. In exact arithmetic a random u and d miss a given E with probability 0, however
# many entries it has, so one number is enough.
#
# The fourth does this, and then checks the *gradient* for the first input in the same way, as a function of the inputs.


# %%
def random_direction(function, arrays, rng, h=1e-5, dtype=np.float64):
    arrays = [a.astype(dtype) for a in arrays]
    cotangent = rng.normal(size=function(*[Tensor(a) for a in arrays]).shape).astype(dtype)
    steps = [(h * rng.normal(size=a.shape)).astype(dtype) for a in arrays]
    numeric, analytic = compare(function, arrays, cotangent, steps)
    return abs(numeric - analytic) / (h * max(1, abs(numeric / h)))


def second_order(function, arrays, rng):
    first = random_direction(function, arrays, rng)
    u = rng.normal(size=function(*[Tensor(a) for a in arrays]).shape)

    def gradient(*tensors):
        tensors = [t if t.requires_grad else Tensor(t.data, requires_grad=True) for t in tensors]
        return grad(function(*tensors), [tensors[0]], create_graph=True, seed=u)[0]

    return np.max([first, random_direction(gradient, arrays, rng)])


def package(function, arrays, rng):
    try:
        return check_grads(function, arrays, seed=int(rng.integers(1000)))
    except GradientError:
        return np.inf


CHECKERS = {"ones, every\nentry, float32": (every_entry_float32, 1e-2), "ones, one\nentry, float64": (one_entry, 1e-6),
            "random,\n1st order": (random_direction, 1e-6), "random,\n2nd order": (second_order, 1e-6),
            "tinygan's\ncheck_grads": (package, 1e-6)}


def refused(rule, checker, runs=runs):
    """The share of runs, each with other random numbers, in which the checker refuses the rule."""
    function, inputs = rule
    measure, tolerance = checker
    count = 0
    with np.errstate(all="ignore"):
        for seed in range(runs):
            rng = np.random.default_rng(seed)
            count += not measure(function, inputs(rng), rng) <= tolerance  # so that NaN counts as refused
    return count / runs


# %% [markdown]
# ## Which checker refuses which rule
#
# Read the picture row by row. Green is as it should be: a wrong rule is always refused, and a right one never. Red is
# the opposite, and yellow is luck.

# %%
rules = WRONG | RIGHT
table = np.array([[refused(rule, checker, 3 if checker[0] is package else runs) for checker in CHECKERS.values()]
                  for rule in rules.values()])
fig, ax = lesson.figure(height=4.6)
for (i, j), share in np.ndenumerate(table):
    good = share if i < len(WRONG) else 1 - share
    colour = lesson.GREEN if good == 1 else lesson.RED if good == 0 else "#e3c35a"
    ax.add_patch(lesson.plt.Rectangle((j - 0.48, i - 0.45), 0.96, 0.9, color=colour, alpha=0.55))
    ax.text(j, i, f"{share:.0%}", ha="center", va="center")
ax.set(xlim=(-0.5, 4.5), ylim=(len(rules) - 0.5, -0.5), title="share of the checks that refuse the rule")
ax.set_xticks(range(5), list(CHECKERS), fontsize=8)
ax.set_yticks(range(len(rules)), list(rules), fontsize=9)
ax.tick_params(length=0)
ax.spines[:].set_visible(False)
lesson.save(fig, "04_rules_and_checkers")

# %%
share = {name: dict(zip(("float32", "entry", "random", "second", "package"), row, strict=True))
         for name, row in zip(rules, table, strict=True)}
assert all(share[name][c] == 0 for name in RIGHT for c in share[name])  # no false alarm
assert all(share[name][c] > 0.95 for name in WRONG for c in ("second", "package"))
assert [name for name in WRONG if share[name]["random"] < 0.95] == ["values, not tensors"]
accepted = ["averaged over a row", "cotangent ignored", "values, not tensors"]
assert all(share[name]["entry"] == 0 for name in accepted) and share["one entry of 100 lost"]["entry"] < 0.2
assert [name for name in WRONG if share[name]["float32"] == 0] == ["off by 1 in 1000", *accepted]
print("the last two checkers refuse all ten, and no checker refuses a right rule")

# %% [markdown]
# * **Ones hide two rules** that are right for ones: the row average and the ignored cotangent. No tolerance helps.
# * **One entry is a lottery.** It finds the entry that was lost only by luck. The chance is 1 in 100.
# * **The first order hides the tenth rule.** Its numbers are right, so only the gradient's gradient shows the error.
# * tinygan's checker refuses all ten. It is the fourth one, with more care about rounding, steps and memory order.
#
# ## Why float64
#
# The first checker missed the rule that is off by 1 in 1000, since its tolerance is 1 in 100. Could the tolerance be
# sharper? Measure the third checker's error in both precisions, each with a step that suits it (lesson 01).

# %%
right, off = RIGHT["right: tanh"], WRONG["off by 1 in 1000"]
measured = {}
for precision, h in ((np.float32, 1e-2), (np.float64, 1e-5)):
    for label, (function, inputs) in (("right", right), ("off by 1 in 1000", off)):
        generators = [np.random.default_rng(seed) for seed in range(runs)]
        measured[precision.__name__, label] = [random_direction(function, inputs(r), r, h, precision)
                                               for r in generators]
fig, ax = lesson.figure(height=2.4)
for row, ((_, label), errors) in enumerate(measured.items()):
    colour = lesson.GREEN if label == "right" else lesson.RED
    ax.scatter(np.maximum(errors, 1e-14), row + rng.uniform(-0.2, 0.2, runs), s=8, color=colour)
ax.set(xscale="log", xlabel="measured error", title="can a right rule be told from a wrong one?", ylim=(3.5, -0.5))
ax.set_yticks(range(4), [f"{precision}, {label}" for precision, label in measured])
lesson.save(fig, "04_two_precisions")
for (precision, label), errors in measured.items():
    print(f"{precision}, {label:16}: errors from {min(errors):.0e} to {max(errors):.0e}")
lowest, highest = ({key: f(errors) for key, errors in measured.items()} for f in (min, max))
assert lowest["float32", "off by 1 in 1000"] < highest["float32", "right"]  # they overlap
assert lowest["float64", "off by 1 in 1000"] > 100 * highest["float64", "right"]

# %% [markdown]
# In float32 the two clouds overlap: whatever the tolerance, some checks go wrong. In float64 there is a wide gap
# between them, and any tolerance in the gap will do. The few red dots on the left are draws in which <rule(u), d> came
# out near 0 by chance. For these tinygan makes two draws, and it measures by the size of the gradient, not of this one
# product.
#
# ## NaN passes a careless test
#
# Any comparison with NaN is false. So a checker that refuses a rule if `error > tolerance` lets a NaN through. Ours
# refuse it unless `error <= tolerance`.

# %%
with np.errstate(all="ignore"):
    error = random_direction(WRONG["NaN at 0"][0], with_zero(rng), rng)
print(f"error {error}: careless test refuses it: {error > 1e-6}, ours: {not error <= 1e-6}")
assert not error > 1e-6 and not error <= 1e-6

# %% [markdown]
# ## A check covers only its inputs
#
# Give the third rule nothing but positive inputs, and the sixth one two arrays of one shape. Now *every* checker
# accepts them, the package's as well. Good inputs have both signs, axes to broadcast, a length of 1 somewhere, and size
# enough for every branch of the code.

# %%
tame = {"sign, negative inputs": lambda rng: [rng.uniform(0.5, 2.0, (3, 3))],
        "broadcast factor wrong": lambda rng: [rng.normal(size=(3, 3)), rng.normal(size=(3, 3))]}
sometimes = operation(np.add, lambda g, y, a, b: g, lambda g, y, a, b: g.mean(axis=0) if b.ndim < g.ndim else g)
functions = WRONG["sign, negative inputs"][0], sometimes
for function, (name, inputs) in zip(functions, tame.items(), strict=True):
    shares = [refused((function, inputs), checker, 3) for checker in CHECKERS.values()]
    print(f"{name}: refused by {sum(shares):.0f} of {len(shares)} checkers")
    assert not any(shares)
assert refused((sometimes, WRONG["mean for a broadcast sum"][1]), CHECKERS["tinygan's\ncheck_grads"], 3) == 1

# %% [markdown]
# ## Where there is no derivative
#
# relu(x) = max(x, 0) has a *kink* at 0: its slope is 0 on the left and 1 on the right. A library must choose a slope
# there, and tinygan takes 1. A central difference takes both sides and gives 1/2. So the plain checkers refuse a
# rule that does what its documentation says. tinygan's compares two step sizes, recognises the kink, and warns.

# %%
at_kink = [np.array([0.0])]
plain = error_at(ops.relu, at_kink, 0, (0,), 1e-5)
with warnings.catch_warnings(record=True) as raised:
    warnings.simplefilter("always")
    check_grads(ops.relu, at_kink, name="relu")
print(f"plain checker: error {plain:.1f}\ntinygan: {raised[0].message}")
assert abs(plain - 0.5) < 1e-6 and raised and all(w.category is KinkWarning for w in raised)

# %% [markdown]
# ## What you learned
#
# * A wrong rule may still train, so training is no test.
# * A random cotangent and a random direction test every entry at once; ones and a single entry do not.
# * float64 leaves a wide gap between rounding and real errors. float32 leaves none.
# * If a gradient will be differentiated again, check it again.
# * A check is as good as its inputs, and at a kink there is nothing to check.
#
# ## Exercises
#
# **1.** Write another wrong rule for `copy`: the first two checkers must never refuse it, and the third one always. It
# may not be `averaged`. **2.** Write `exercise_2(f, x, h)` that returns whether f has a kink at x, from values of f
# alone. A smooth function may bend strongly there, and a line gives differences of pure rounding.


# %%
def exercise_1(g, y, a):
    raise NotImplementedError("yours to write")


def check_1(rule):
    g = Tensor(np.arange(9.0).reshape(3, 3) ** 2)
    assert not np.allclose(rule(g, g, g).data, averaged(g, g, g).data), "this is the rule of the lesson"
    shares = [refused((operation(copy, rule), square()), checker, 10) for checker in list(CHECKERS.values())[:3]]
    assert shares[0] == shares[1] == 0, "a checker with ones refuses it"
    assert shares[2] == 1, "the checker with a random cotangent accepts it: is it wrong?"


lesson.exercise(exercise_1, check_1)


# %%
def exercise_2(f, x, h=1e-4):
    raise NotImplementedError("yours to write")


def check_2(is_kink):
    bent = {"abs at 0": (abs, 0.0), "relu at 0": (lambda t: max(t, 0), 0.0),
            "max(2x, 3x) at 0": (lambda t: max(2 * t, 3 * t), 0.0),
            "abs(x - 1) + x x at 1": (lambda t: abs(t - 1) + t * t, 1.0)}
    smooth = {"x x at 0": (lambda t: t * t, 0.0), "exp at 1": (np.exp, 1.0), "abs at 0.5": (abs, 0.5),
              "sin(300 x) at 0.1": (lambda t: np.sin(300 * t), 0.1), "5 x at 0.7": (lambda t: 5 * t, 0.7)}
    for name, (f, x) in bent.items():
        assert is_kink(f, x, 1e-4), f"{name} is a kink"
    for name, (f, x) in smooth.items():
        assert not is_kink(f, x, 1e-4), f"{name} is none"


lesson.exercise(exercise_2, check_2)
