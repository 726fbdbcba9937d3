# %% [markdown]
# # 09 · A bank of filters
#
# **Goal.** Give a layer several sets of weights, let every sample take one of them at random, and compute this without
# a loop over samples. Count what such an ensemble costs. Then play lesson 08's game with it.
#
# **You need** lesson 08, and lesson 06 for transposed convolutions. **Minutes:** 25 to read, one to run.
#
# **The package's tests:** test_conv.py, test_layers.py, test_adapted_gan.py, test_optim.py

# %%
import lesson
import numpy as np

from tinygan import Tensor, frozen, no_grad, ops
from tinygan.metrics import route_information
from tinygan.models import draw_routes
from tinygan.nn import (
    Adam,
    Linear,
    Module,
    Parameter,
    Sequential,
    StochasticConvTranspose2d,
    TPReLU,
    discriminator_loss,
    generator_loss,
)
from tinygan.ops import conv_transpose2d

flags = lesson.flags()
rng = np.random.default_rng(0)

# %% [markdown]
# ## The idea
#
# An *ensemble* of generators is more varied than one generator, but R of them have R times the weights, and each learns
# from an R-th of the samples. The paper that this project follows (Chaplygin & Chacksfield 2018) makes an ensemble
# *inside* a net. A layer keeps a *bank* of K complete sets of filters. Each sample takes one set in each layer, drawn
# at random. The list of its choices is its *route*. L such layers are K ** L different generators, and yet each set
# learns from a K-th of the samples. In one layer:
#
#     y[n] = x[n] @ W[r[n]]        r[n] is one of 0 .. K - 1
#
# Written as it reads, this is a loop over samples: one small product for each.

# %%
K, N, A, B = 4, 64, 16, 24  # sets, samples, inputs, outputs
x, W = rng.standard_normal((N, A)), rng.standard_normal((K, A, B))
r = rng.integers(0, K, N)


def by_loop(x, W, r):
    products = 0
    y = np.empty((len(x), W.shape[2]))
    for n in range(len(x)):
        y[n] = x[n] @ W[r[n]]
        products += 1
    return y, products


# %% [markdown]
# ## Sort, multiply, put back
#
# Both ways below do the same N * A * B multiplications. But many small products are slow, and a few large ones are fast
# (time them with a larger N). So bring the samples of one set together: sort them by their
# route, multiply each run of equal routes by its one matrix, and write the rows back where they came from.


# %%
def by_sorting(x, W, r):
    order = np.argsort(r, kind="stable")  # samples of set 0 first, then those of set 1, ...
    ends = np.cumsum(np.bincount(r, minlength=len(W)))
    y, products, start = np.empty((len(x), W.shape[2])), 0, 0
    for k, end in enumerate(ends):
        if end > start:  # a set that no sample took costs nothing
            rows = order[start:end]
            y[rows] = x[rows] @ W[k]
            products += 1
        start = end
    return y, products


y, slow = by_loop(x, W, r)
y_sorted, fast = by_sorting(x, W, r)
print(f"{slow} products by the loop, {fast} by sorting")
assert np.allclose(y, y_sorted) and (slow, fast) == (N, K)

# %% [markdown]
# A transposed convolution of a map of 1 x 1 pixels with a 1 x 1 kernel is this very product, so tinygan's layer must
# agree. The gradient of the weights carries `rows`: which sets took part. The others get exactly zero. That alone would
# not hold them still, as Adam goes on moving by its averages of older gradients. So it skips sets whose row is False.

# %%
w = Tensor(W.reshape(K, A, B, 1, 1), requires_grad=True)
y_package = conv_transpose2d(Tensor(x.reshape(N, A, 1, 1)), w, routes=r).numpy().reshape(N, B)
assert np.allclose(y, y_package)

conv_transpose2d(Tensor(x.reshape(N, A, 1, 1)), w, routes=np.where(r == 2, 3, r)).sum().backward()  # none takes set 2
print("sets with a gradient:", w.grad.rows, " largest gradient in set 2:", abs(w.grad.numpy()[2]).max())
assert w.grad.rows.tolist() == [True, True, False, True] and not w.grad.numpy()[2].any()

bank = Parameter(W.reshape(K, A, B, 1, 1).copy(), bank=True)
adam = Adam([("bank", bank)], lr=0.1)
for r_now in (r, np.where(r == 2, 3, r)):  # in the second step no sample takes set 2
    before, bank.grad = bank.numpy().copy(), None
    conv_transpose2d(Tensor(x.reshape(N, A, 1, 1)), bank, routes=r_now).sum().backward()
    adam.step()
    moved = [bool((bank.numpy()[k] != before[k]).any()) for k in range(K)]
    print("sets that Adam moved:", moved)
assert moved == [True, True, False, True]

# %% [markdown]
# ## Counting
#
# K sets in each of L layers are K * L sets to store. The routes are all ways to choose: K * K * ... = K ** L. With 8
# sets in 4 layers, 32 sets make 4,096 different generators. They are not independent: two routes may share 3 of their
# 4 sets. In a *tied* ensemble one index is drawn and used in all layers: simply K separate nets, whose routes share
# nothing. 4,096 routes would then need 4 * 4,096 sets.

# %%
L = 4
untied = {k: k ** L for k in range(1, 17)}
assert untied[8] == 4_096
fig, ax = lesson.figure(height=2.6)
ax.plot([k * L for k in untied], list(untied.values()), "o-", ms=4, label="an index for each layer: K ** 4 routes")
ax.plot([k * L for k in untied], list(untied), "o-", ms=4, label="tied, one index for all layers: K routes")
ax.set(yscale="log", xlabel="filter sets stored (K sets in each of 4 layers)", ylabel="routes")
ax.legend(loc="center right")
lesson.save(fig, "09_routes_and_sets")

free, tied = (draw_routes(np.random.default_rng(1), 1_000, (8, 8, 8, 8), tied=t) for t in (False, True))
print(f"1,000 samples: {len(np.unique(free, axis=0))} different routes, tied {len(np.unique(tied, axis=0))}")
assert len(np.unique(free, axis=0)) > 800 and len(np.unique(tied, axis=0)) == 8

# %% [markdown]
# And the price in arithmetic? For a batch of N samples each layer still multiplies N rows, once each. What grows is the
# number of products, at most K in a layer, and the memory for the weights. A tied ensemble with as many routes, 4,096,
# has almost one product per sample in *every* layer, and most sets are read for one sample only: the loop that we left.

# %%
batch = 64
for name, sets, index in (("untied, banks of 8", 8, rng.integers(0, 8, (batch, L))),
                          ("tied, 4,096 nets", 4_096, rng.integers(0, 4_096, (batch, 1)).repeat(L, axis=1))):
    used = sum(len(np.unique(index[:, layer])) for layer in range(L))
    print(f"4,096 routes, {name:18s} {sets * L:6,} sets stored, {used:3d} products for a batch of {batch}")
    assert used <= 8 * L if sets == 8 else used > 50 * L

# %% [markdown]
# ## The game of lesson 08, with routes
#
# Same ring, same D, same losses. The generator is now three stochastic layers of kernel 1: banks of K sets in the first
# two, a last layer that all routes share; each set has its own scale and bias (`bank_affine`). With K = 1 it is the
# plain net of lesson 08. For each sample noise *and* route are drawn afresh, in D's turn and in G's.

# %%
MODES, SPREAD = 8, 0.05
turn = np.arange(MODES) * 2 * np.pi / MODES
centres = np.stack([np.cos(turn), np.sin(turn)], axis=1).astype(np.float32)


class BankNet(Module):
    """Noise (N, 2) and routes (N, 2) -> points (N, 2)."""

    def __init__(self, rng, bank, width):
        self.bank = (bank, bank)
        self.first = StochasticConvTranspose2d(2, width, 1, bank=bank, bank_affine=True, rng=rng)
        self.second = StochasticConvTranspose2d(width, width, 1, bank=bank, bank_affine=True, rng=rng)
        self.last = StochasticConvTranspose2d(width, 2, 1, bank=1, rng=rng)
        self.acts = [TPReLU(width), TPReLU(width)]

    def forward(self, z, routes):
        x = self.acts[0](self.first(z.reshape(len(z), 2, 1, 1), routes[:, 0]))
        x = self.acts[1](self.second(x, routes[:, 1]))
        return self.last(x).reshape(len(z), 2)

    def draw(self, rng, n):
        return Tensor(rng.standard_normal((n, 2), dtype=np.float32)), draw_routes(rng, n, self.bank)


# %%
def play(seed, steps, rates, bank, width=32):
    """Train as in lesson 08; return (every 100th step, points at each, their routes, how many weights G has)."""
    rng = np.random.default_rng(seed)
    G = BankNet(rng, bank, width)
    D = Sequential(Linear(2, 32, rng=rng), TPReLU(32), Linear(32, 32, rng=rng), TPReLU(32), Linear(32, 1, rng=rng))
    g_optimiser, d_optimiser = (Adam(n.named_parameters(), lr=rate) for n, rate in zip((G, D), rates, strict=True))
    fixed, at, drawn = G.draw(rng, 1_600), [], []
    for step in range(1, steps + 1):
        cloud = centres[rng.integers(0, MODES, batch)]
        real = cloud + np.float32(SPREAD) * rng.standard_normal(cloud.shape, dtype=np.float32)
        with no_grad():
            fake = G(*G.draw(rng, batch))
        D.zero_grad()
        both = D(ops.concatenate([Tensor(real), fake]))  # one call for both
        discriminator_loss(real=both[:batch], fake=both[batch:]).backward()
        d_optimiser.step()
        G.zero_grad()
        with frozen(D):
            generator_loss(fake=D(G(*G.draw(rng, batch)))).backward()
        g_optimiser.step()
        if step % 100 == 0:
            with no_grad():
                at.append(step)
                drawn.append(G(*fixed).numpy())
    return at, drawn, fixed[1], G.parameter_count()


def nearest(points):
    """(nearest mode, whether it is within 3 standard deviations) of each point."""
    distance = np.linalg.norm(points[:, None] - centres, axis=2)
    return distance.argmin(axis=1), distance.min(axis=1) < 3 * SPREAD


def modes_covered(points):
    mode, close = nearest(points)
    return int((np.bincount(mode[close], minlength=MODES) >= 0.02 * len(points)).sum())


# %% [markdown]
# Three generators: the plain one, the *SGAN*, stochastic GAN, with banks of 4, and a plain one that is wider, so that
# it has as many weights as the SGAN. Three pairs of rates: *calm* as in lesson 08; *brisk*, with G at 10 times D's rate
# (lesson 08's hasty game had a larger factor; between the two it depends on the seed); and *brisker*, both rates of
# brisk doubled. We chose brisk because there the nets differ.

# %%
nets = {"GAN": (1, 32), "SGAN": (4, 32)} | ({} if flags.quick else {"wide GAN": (1, 66)})
paces = {"calm": (3e-3, 3e-3), "brisk": (5e-3, 5e-4), "brisker": (1e-2, 1e-3)}
steps = {"calm": 400, "brisk": 300, "brisker": 200} if flags.quick else {"calm": 800, "brisk": 900, "brisker": 600}
plan = [("calm", "GAN", 1), ("calm", "SGAN", 1), *(("brisk", name, 1 if flags.quick else 3) for name in nets),
        ("brisker", "SGAN", 1)]
games, late = {}, {}
print("pace     net       weights  modes covered, mean of the last third, by seed")
for pace, name, seeds in plan:
    played = games[pace, name] = [play(seed, steps[pace], paces[pace], *nets[name]) for seed in range(seeds)]
    late[pace, name] = [float(np.mean([modes_covered(p) for p in drawn[-len(drawn) // 3:]]))
                        for _, drawn, _, _ in played]
    print(f"{pace:8s} {name:9s} {played[0][3]:7,}", *(f"{mean:5.1f}" for mean in late[pace, name]))

assert 3 < games["calm", "SGAN"][0][3] / games["calm", "GAN"][0][3] < 4  # the price: weights
if not flags.quick:
    assert min(late["calm", "GAN"] + late["calm", "SGAN"]) >= 6
    assert np.mean(late["brisk", "SGAN"]) > max(np.mean(late["brisk", name]) for name in ("GAN", "wide GAN"))
assert np.mean(late["brisker", "SGAN"]) < 5

# %%
fig, axes = lesson.figure(1, 4, height=2.3, sharex=True, sharey=True)
middle = 0 if flags.quick else 1  # the seed at which the SGAN did neither worst nor best
shown = [("brisk", "GAN", middle), ("brisk", "SGAN", middle), ("brisker", "SGAN", 0), ("calm", "SGAN", 0)]
for ax, (pace, name, which) in zip(axes, shown, strict=True):
    at, drawn, routes, _ = games[pace, name][which]
    ax.plot(*centres.T, "o", ms=13, mfc="none", color=lesson.GREY)
    ax.scatter(*drawn[-1].T, s=2, c=routes[:, 0] * nets[name][0] + routes[:, 1], cmap="tab20")
    ax.set(title=f"{name}, {pace}\nseed {which}", xlim=(-1.6, 1.6), ylim=(-1.6, 1.6), aspect="equal")
lesson.save(fig, "09_points_by_route")

# %% [markdown]
# Each colour is one route; all points of the plain GAN have one colour. Read the printed table beside it:
#
# * Calm: both nets cover all modes. Routes are not needed here.
# * Brisk: the plain GAN is collapsed, with equal weights too: 0.3 modes, the wide one 1.2, means of three seeds. The
#   SGAN holds 4.7, by the seed few or nearly all. A likely reason: when D's logit falls in one place, the routes
#   that are there are moved away, and others can stay.
# * Brisker, in the one game played: the SGAN collapses as well. All its routes share D, the last layer and often a set,
#   so they may collapse together.
#
# So on this ring a bank of filters makes the game *less sensitive to the rates*; it is no cure. Few seeds of a toy
# prove little, and on MNIST neither net collapsed (RESULTS.md).
#
# ## What does one route draw?
#
# The *entropy* of the modes, - sum of p log p, measures how uncertain the mode of a point is: log 8 = 2.08 for eight
# equal modes, in *nats*, the unit that goes with the natural logarithm. The *mutual information* I(mode; route) is how
# much of it goes away when the route is known. Here every point counts for its nearest mode.

# %%
at, drawn, routes, _ = games["calm", "SGAN"][0]
mode, close = nearest(drawn[-1])
route = routes[:, 0] * 4 + routes[:, 1]
table = np.zeros((16, MODES))
np.add.at(table, (route[close], mode[close]), 1)
table /= np.bincount(route, minlength=16)[:, None]
fig, ax = lesson.figure(height=3.4)
image = ax.imshow(table.T, cmap="Blues", vmin=0, vmax=1, aspect="auto", origin="lower")
ax.set(xlabel="route (set of the first layer, set of the second)", ylabel="mode", xticks=range(16),
       xticklabels=[f"{i},{j}" for i in range(4) for j in range(4)])
fig.colorbar(image, label="share of the route's points")
lesson.save(fig, "09_route_and_mode")

known = route_information(mode, route, classes=MODES)
per_route = float((table >= 0.02).sum(axis=1).mean())
print(f"a route draws {per_route:.1f} modes on average; all together {modes_covered(drawn[-1])}")
print(f"I(mode; route) = {known['information']:.2f} nats of {known['label_entropy']:.2f}; "
      f"by chance {known['information_shuffled']:.2f}")
assert per_route < modes_covered(drawn[-1])
assert known["information"] > 3 * known["information_shuffled"]

# %% [markdown]
# Each column is a route and adds up to at most 1, as points far from all modes are left out. A single route draws few
# modes, the 16 together draw all. An I(mode; route) of 0 would mean that routes make no difference, the whole entropy
# that the route decides alone. Ours lies between: noise still matters inside a route. The value by chance comes from
# the same points with their routes shuffled.
#
# ## What you learned
#
# * K sets in each of L layers give K ** L routes from K * L sets; a tied ensemble gets K from as many.
# * Sort samples by route: one product for each used set. Arithmetic stays, weights grow K-fold.
# * Sets without samples get no gradient, and the optimiser does not move them.
# * On the ring, routes specialise; they soften a collapse and do not rule it out.
#
# ## Exercises
#
# **1.** The gradient of the bank: given x (N, A), g (N, B), the gradient that arrives at y, the indices r and the
# number of sets, compute the gradient of W, (sets, A, B); a set that no sample took gets zeros. **2.** n samples draw
# their routes at random, out of `routes` different ones. How many *different* routes do they hold on average? Find the
# formula; a check draws them. Compare it with the products printed above.


# %%
def exercise_1(x, g, r, sets):
    raise NotImplementedError("yours to write")


def check_1(gradient):
    rng = np.random.default_rng(3)
    x, g = rng.standard_normal((20, 5)), rng.standard_normal((20, 3))
    for r in (rng.integers(0, 4, 20), np.array([0, 3] * 10)):
        w = Tensor(np.zeros((4, 5, 3, 1, 1)), requires_grad=True)
        conv_transpose2d(Tensor(x.reshape(20, 5, 1, 1)), w, routes=r).backward(Tensor(g.reshape(20, 3, 1, 1)))
        assert np.allclose(gradient(x, g, r, 4), w.grad.numpy().reshape(4, 5, 3)), "the package's gradient is another"


lesson.exercise(exercise_1, check_1)


# %%
def exercise_2(n, routes):
    raise NotImplementedError("yours to write")


def check_2(expected):
    rng = np.random.default_rng(4)
    for n, routes in ((64, 16), (64, 4_096), (10, 10)):
        drawn = np.mean([len(np.unique(rng.integers(0, routes, n))) for _ in range(3_000)])
        assert abs(expected(n, routes) - drawn) < 0.15, f"{n} samples, {routes} routes: it should be near {drawn:.1f}"


lesson.exercise(exercise_2, check_2)
