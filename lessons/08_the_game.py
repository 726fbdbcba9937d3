# %% [markdown]
# # 08 · The game
#
# **Goal.** Train two nets against each other until one of them draws points that the other cannot tell from data. Then
# upset the balance, and measure how the drawing net loses all but one place.
#
# **You need** lesson 05: a loss, a net, an optimiser. **Minutes:** 25 to read, one to run.
#
# **The package's tests:** test_losses.py, test_engine.py, test_optim.py

# %%
import lesson
import numpy as np

from tinygan import Tensor, frozen, no_grad
from tinygan.nn import Adam, Linear, Sequential, TPReLU, discriminator_loss, generator_loss

flags = lesson.flags()

# %% [markdown]
# ## Two players
#
# A *generator* G turns random numbers z into a sample. A *discriminator* D computes how likely a
# sample is real. D learns to be right, and G learns to make D wrong. No loss compares G's samples with data: all that G
# is trained with is D's output and its slope. This is a generative adversarial net, a GAN (Goodfellow et al. 2014).
#
# Our data are points in a plane: 8 small clouds on a circle. Each cloud is a *mode*, a place where samples are dense.

# %%
MODES, SPREAD, BATCH = 8, 0.05, 64
turn = np.arange(MODES) * 2 * np.pi / MODES
centres = np.stack([np.cos(turn), np.sin(turn)], axis=1).astype(np.float32)


def ring(rng, n):
    """n points of the data, (n, 2)."""
    cloud = centres[rng.integers(0, MODES, n)]
    return cloud + np.float32(SPREAD) * rng.standard_normal((n, 2), dtype=np.float32)


def net(rng, inputs, outputs, width=32):
    return Sequential(Linear(inputs, width, rng=rng), TPReLU(width),
                      Linear(width, width, rng=rng), TPReLU(width), Linear(width, outputs, rng=rng))


def noise(rng, n):
    return Tensor(rng.standard_normal((n, 2), dtype=np.float32))


# %% [markdown]
# D ends in one number without a bound, the *logit* s. The probability of "real" is sigmoid(s) = 1 / (1 + exp(-s)).
#
#     loss of D  =  mean of -log sigmoid(s) on real points   +   mean of -log(1 - sigmoid(s)) on G's points
#     loss of G  =  mean of -log sigmoid(s) on G's points
#
# ## Whose turn is it?
#
# Both losses pass through both nets. A gradient flows back to every weight on the way, so the borders of each
# turn have to be drawn. In D's turn, `detach` cuts G's points from the tape. In G's turn the slope must pass *through*
# D, so D cannot be cut off; `frozen` makes D's weights constants for a while.

# %%
rng = np.random.default_rng(0)
G, D = net(rng, 2, 2), net(rng, 2, 1)

fake = G(noise(rng, BATCH)).detach()
discriminator_loss(real=D(Tensor(ring(rng, BATCH))), fake=D(fake)).backward()
assert all(p.grad is None for p in G.parameters())  # D's turn does not touch G
of_d = [p.grad.numpy().copy() for p in D.parameters()]

with frozen(D):
    generator_loss(fake=D(G(noise(rng, BATCH)))).backward()
assert all(p.grad is not None for p in G.parameters())  # the slope went through D to G
assert all(np.array_equal(p.grad.numpy(), g) for p, g in zip(D.parameters(), of_d, strict=True))  # and left D alone

generator_loss(fake=D(G(noise(rng, BATCH)))).backward()  # without `frozen`
mixed = sum(float(abs(p.grad.numpy() - g).sum()) for p, g in zip(D.parameters(), of_d, strict=True))
print(f"without `frozen`, G's turn changes D's gradients by {mixed:.2f} in all")
assert mixed > 0.1

# %% [markdown]
# The last case is a common mistake: D would take a step that also helps G. Calling `D.zero_grad()` in the right place
# hides it, and then only time is lost.
#
# ## A whole game
#
# D plays, then G plays, with fresh noise. `no_grad` does what `detach` does and records nothing, which is cheaper.


# %%
def turn_of_d(G, D, optimiser, rng):
    with no_grad():
        fake = G(noise(rng, BATCH))
    D.zero_grad()
    loss = discriminator_loss(real=D(Tensor(ring(rng, BATCH))), fake=D(fake))
    loss.backward()
    optimiser.step()


def turn_of_g(G, D, optimiser, rng, **kind):
    G.zero_grad()
    with frozen(D):
        generator_loss(fake=D(G(noise(rng, BATCH))), **kind).backward()
    optimiser.step()


def play(seed, steps, g_rate, d_rate):
    """Train both nets; return (every 100th step, 1,000 points of G at each, made from the same noise)."""
    rng = np.random.default_rng(seed)
    G, D = net(rng, 2, 2), net(rng, 2, 1)
    g_optimiser, d_optimiser = Adam(G.named_parameters(), lr=g_rate), Adam(D.named_parameters(), lr=d_rate)
    z, at, drawn = noise(rng, 1_000), [], []
    for step in range(1, steps + 1):
        turn_of_d(G, D, d_optimiser, rng)
        turn_of_g(G, D, g_optimiser, rng)
        if step % 100 == 0:
            with no_grad():
                at.append(step)
                drawn.append(G(z).numpy())
    return at, drawn


# %% [markdown]
# A number for "how much of the data does G draw?": give each point to its nearest mode, if it is within 3 standard
# deviations of it. A mode counts as covered when it holds 2 % of all points. A perfect G covers 8, with 12 % in each.


# %%
def modes_covered(points):
    distance = np.linalg.norm(points[:, None] - centres, axis=2)
    near = distance.argmin(axis=1)[distance.min(axis=1) < 3 * SPREAD]
    return int((np.bincount(near, minlength=MODES) >= 0.02 * len(points)).sum())


assert modes_covered(ring(np.random.default_rng(1), 1_000)) == MODES
assert modes_covered(ring(np.random.default_rng(1), 1_000) * 0) == 0  # all points in the middle of the ring

# %% [markdown]
# We play the same game with two pairs of learning rates. *Calm*: both nets learn at the rate 0.003. *Hasty*: G learns
# at 20 times the rate of D.

# %%
seeds, steps = (range(1), 600) if flags.quick else (range(3), 1_200)
rates = {"calm": (3e-3, 3e-3), "hasty": (5e-3, 2.5e-4)}  # G's and D's
games = {name: [play(seed, steps, *pair) for seed in seeds] for name, pair in rates.items()}

fig, axes = lesson.figure(2, 4, height=2.0, sharex=True, sharey=True)
for row, (name, played) in zip(axes, games.items(), strict=True):
    at, drawn = played[0]
    for ax, i in zip(row, [len(at) // 4, len(at) // 2, -2, -1], strict=True):
        ax.plot(*centres.T, "o", ms=13, mfc="none", color=lesson.GREY)
        ax.plot(*drawn[i].T, ".", ms=2, color=lesson.BLUE if name == "calm" else lesson.RED)
        ax.set(title=f"{name}, step {at[i]}", xlim=(-1.6, 1.6), ylim=(-1.6, 1.6), aspect="equal")
lesson.save(fig, "08_points_over_time")

# %% [markdown]
# Grey circles are the 8 modes, dots are G's points of seed 0. In the calm game the points spread to all circles and
# then gather in them. In the hasty game most points are in *one* patch, and in each picture in another place. This is
# **mode collapse**. What happens: G sends all points to the place where D's logit is largest. D, slow, learns in time
# that this place is full of fakes, and then another place has the largest logit. G sends all points there at once, and
# so on without end.

# %%
fig, axes = lesson.figure(1, 2, height=2.6, sharey=True)
late = {}
for ax, (name, played) in zip(axes, games.items(), strict=True):
    counts = [[modes_covered(points) for points in drawn] for _, drawn in played]
    for seed, count in zip(seeds, counts, strict=True):
        ax.plot(played[0][0], count, "o-", ms=3, label=f"seed {seed}")
    late[name] = [float(np.mean(count[-len(count) // 3:])) for count in counts]
    ax.set(title=name, xlabel="step", ylim=(-0.3, 8.5))
    print(f"{name}: modes covered, mean of the last third of the game:", *(f"{mean:.1f}" for mean in late[name]))
axes[0].set_ylabel("modes covered, of 8")
axes[0].legend()
lesson.save(fig, "08_modes_covered")
assert np.mean(late["calm"]) >= (4 if flags.quick else 6)
assert np.mean(late["hasty"]) <= 3

# %% [markdown]
# Nothing in G's loss rewards variety. It is a mean over points, and each point's loss is least where D's logit is
# largest; only a D that keeps up lowers its logit where points crowd. With rates between these two pairs it depends on
# the seed which happens.
#
# ## Three losses for G
#
# The loss as first written for a GAN makes D's own loss large: G minimises mean log(1 - sigmoid(s)). It is called
# *saturating*. The *non-saturating* one above has the same aim, but another slope. Some frameworks computed it
# from the probability, with a small number in the logarithm to keep it finite: log(sigmoid(s) + 1e-12), *clamped*.

# %%
kinds = {"non-saturating": {}, "saturating": {"kind": "saturating"}, "clamped": {"form": "clamped"}}


def slope(s, kind):
    """d loss / d logit at each of the logits s: a mean over n points has n times smaller slopes."""
    logits = Tensor(np.asarray(s, np.float64), requires_grad=True)
    generator_loss(fake=logits, **kinds[kind]).backward()
    return logits.grad.numpy() * len(s)


s = np.linspace(-40, 10, 501)
fig, ax = lesson.figure(height=2.6)
for (name, _), style in zip(kinds.items(), ("-", "-", "--"), strict=True):
    ax.plot(s, slope(s, name), style, label=name)
ax.set(xlabel="logit of a point (D: surely fake  <   0   <  surely real)", ylabel="slope of G's loss")
ax.legend(loc="center left", bbox_to_anchor=(0.4, 0.5))
lesson.save(fig, "08_slopes")

at = np.array([-30.0, -10.0, 0.0])
assert np.allclose(slope(at, "non-saturating"), [-1, -1, -0.5], atol=1e-4)
assert np.allclose(slope(at, "saturating"), [0, 0, -0.5], atol=1e-4)
assert np.allclose(slope(at, "clamped"), [-0.09, -1, -0.5], atol=0.01)

# %% [markdown]
# G's gradient is proportional to this slope. When D wins, logits are far below 0: there the slope of the saturating
# loss is 0, and that of the clamped one vanishes near -27.6, where exp(s) meets 1e-12.
#
# ## The first steps
#
# What arrives at G's weights? We let D learn alone for 300 turns, so that it is ahead. In the last case we also
# multiply its last layer, and so its logits, by 40: its probabilities are then all but 0 or 1.


# %%
def first_steps(G, D, kind, turns=20):
    """(mean logit of G's points, length of G's first gradient, how far its points then move in 20 turns)."""
    G, rng, length = G.copy(), np.random.default_rng(1), None
    optimiser, z = Adam(G.named_parameters(), lr=3e-3), noise(rng, 500)
    with no_grad():
        before, logit = G(z).numpy(), float(D(G(z)).numpy().mean())
    for _ in range(turns):
        turn_of_g(G, D, optimiser, rng, **kinds[kind])
        if length is None:
            length = sum(float((p.grad.numpy() ** 2).sum()) for p in G.parameters()) ** 0.5
    with no_grad():
        return logit, length, float(np.linalg.norm(G(z).numpy() - before, axis=1).mean())


rng = np.random.default_rng(4)
G, even = net(rng, 2, 2), net(rng, 2, 1)
ahead = even.copy()
optimiser = Adam(ahead.named_parameters(), lr=3e-3)
for _ in range(300):
    turn_of_d(G, ahead, optimiser, rng)
scaled = ahead.copy()
for p in scaled.layers[-1].parameters():
    p.data[...] *= 40

print("D      loss            logit  gradient   way")
measured = {}
for case, D in {"even": even, "ahead": ahead, "scaled": scaled}.items():
    for kind in kinds:
        measured[case, kind] = first_steps(G, D, kind)
        print("{:6s} {:15s} {:5.0f} {:9.0e} {:5.2f}".format(case, kind, *measured[case, kind]))

way = {key: row[2] for key, row in measured.items()}
assert measured["ahead", "saturating"][1] < 0.1 * measured["ahead", "non-saturating"][1]
assert way["ahead", "saturating"] > 0.5
assert way["scaled", "saturating"] < 0.01 and way["scaled", "clamped"] < 0.01
assert way["scaled", "non-saturating"] > 0.3

# %% [markdown]
# With D ahead the saturating gradient is some 1,000 times shorter, and yet G moves as far, or further. Adam divides a
# gradient by its own usual size, so it takes the same stride for a short one. Textbooks say that this loss learns
# nothing at first; with plain gradient descent that is so, with Adam it is not. The end comes when the gradient is
# zero: with scaled logits, the saturating and the clamped loss leave G where it is. The paper that
# this project follows calls such a state a *hard collapse*. tinygan uses the non-saturating loss on logits.
#
# ## What you learned
#
# * A GAN is two losses on one chain; `detach` (or `no_grad`) and `frozen` draw the border between the turns.
# * Mode collapse: G sends all points to the place of D's largest logit, which moves. The balance of the rates decides.
# * Losses with the same aim differ in slope. Adam makes up for a short gradient, but not for a zero.
#
# ## Exercises
#
# **1.** The slopes of the saturating loss by hand: for an array of logits s, give d/ds of log(1 - sigmoid(s)). It must
# hold, without a warning, for s = -1000 and 1000 too. **2.** What is the best D? In a small cell of the plane, let the
# share of real points be p and of G's points q. D's loss is the sum over cells of -p log sigmoid(s) - q log(1 -
# sigmoid(s)). Find the best s for each cell.


# %%
def exercise_1(s):
    raise NotImplementedError("yours to write")


def check_1(slopes):
    s = np.linspace(-20, 20, 9)
    assert np.allclose(slopes(s), slope(s, "saturating"), atol=1e-9), "it differs from the tape's slopes"
    with np.errstate(all="raise", under="ignore"):
        ends = slopes(np.array([-1000.0, 1000.0]))
    assert np.allclose(ends, [0, -1]), "at the ends it should be 0 and -1"


lesson.exercise(exercise_1, check_1)


# %%
def exercise_2(p, q):
    raise NotImplementedError("yours to write")


def check_2(best):
    p, q = np.random.default_rng(2).dirichlet(np.ones(6), size=2)

    def loss(s):
        return float((p * np.logaddexp(0, -s) + q * np.logaddexp(0, s)).sum())

    s = best(p, q)
    for cell in range(6):
        for step in (-0.01, 0.01):
            other = s + step * (np.arange(6) == cell)
            assert loss(other) > loss(s), f"in cell {cell}, s + {step} is better"


lesson.exercise(exercise_2, check_2)
