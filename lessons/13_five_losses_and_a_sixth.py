# %% [markdown]
# # 13 · Five losses and a sixth
#
# **Goal.** Meet the losses of the paper's GPAN one at a time. Let each of them alone change a picture, and see what it
# wants; then let them argue. Find out why a classifier should see a picture from many sides.
#
# **You need** lessons 8 (the game) and 11 (a classifier). **Minutes:** 25 to read, half a minute to run.
#
# **The package's tests:** test_gpan_losses.py, test_views.py, test_substrates.py, test_gpan_step.py

# %%
from dataclasses import replace

import lesson
import numpy as np

from tinygan import Tensor, ops
from tinygan.data.substrates import condition, drawn_shapes
from tinygan.engine import frozen, no_grad
from tinygan.gpan_losses import (
    PAPER_WEIGHTS,
    background_loss,
    classifier_loss,
    patch_discriminator_loss,
    patch_generator_loss,
    split_loss,
    substrate_loss,
    unwanted_loss,
    wanted_loss,
    weighted_sum,
)
from tinygan.models.digits import DigitEye, load
from tinygan.models.gpan import GPANConfig, PatchDiscriminator
from tinygan.module import Parameter
from tinygan.optim import Adam
from tinygan.views import ViewSettings, draw_views, look, whole

flags = lesson.flags()
steps = 60 if flags.quick else 200
SIZE, WANTED = 64, 3

# %% [markdown]
# ## The idea
#
# A GPAN paints a wanted thing, here the digit 3, onto a given object, the *substrate*: so that a classifier sees a 3,
# while the object stays what it is. Nobody has examples of such pictures. So the wish is written as a sum of losses,
# each a judge with one concern. We leave the generator out in this lesson: **the pixels themselves are what we
# train.** A pixel is tanh(a), so that it stays between -1 (black) and 1 (white), and Adam moves the numbers a.

# %%
kinds = ["heart", "shirt"]
items = [drawn_shapes(SIZE, kinds=[kind]).next(np.random.default_rng(5), 1) for kind in kinds]
target, mask = (np.concatenate(parts) for parts in zip(*items, strict=True))
noise = np.random.default_rng(2).normal(0, 0.5, target.shape).clip(-0.95, 0.95).astype(np.float32)


def descend(loss, start, rate=0.05):
    a = Parameter(np.arctanh(start.clip(-0.98, 0.98)).astype(np.float32))
    adam = Adam([("pixels", a)], lr=rate, betas=(0.9, 0.99))
    for _ in range(steps):
        a.grad = None
        loss(ops.tanh(a)).backward()
        adam.step()
    return np.tanh(a.numpy())


# %% [markdown]
# ## L_m: the background is white
#
# The mask m is 1 on the object and 0 around it. With G for the picture:
#
#     L_m  =  mean of (1 - m) (1 - G)
#
# ## L_sub: the picture resembles its substrate
#
#     L_sub  =  mean of  |d| - log(1 - d * d / 4),      d = T - G
#
# The first part is the plain distance to the substrate T; the second is a barrier that grows without bound towards
# the largest difference there can be, 2, black against white.
#
# ## L_cGAN: small parts look real
#
# A *patch discriminator* judges every part of 16 x 16 pixels, and sees the object's silhouette beside the picture. It
# learns during the descent: drawn shapes are real to it, our two pictures are not. The picture's loss is -log D.


# %%
def whiten(images):
    return background_loss(images, mask)


def resemble(images):
    return substrate_loss(images, target, limit=0.01)  # the barrier ends at d * d / 4 = 0.99


def new_patch_judge():
    D = PatchDiscriminator(GPANConfig(size=SIZE, patch_channels=8), rng=np.random.default_rng(3))
    adam = Adam(D.named_parameters(), lr=2e-3)
    real_shapes, rng = drawn_shapes(SIZE, kinds=kinds), np.random.default_rng(4)
    silhouette = Tensor(condition(mask, target))

    def judge(images):
        real, its_mask = real_shapes.next(rng, 2)
        for _, p in D.named_parameters():
            p.grad = None
        patch_discriminator_loss(real=D(Tensor(condition(its_mask, real)), Tensor(real)),
                                 fake=D(silhouette, images.detach())).backward()
        adam.step()
        with frozen(D):  # the picture's turn: D is a constant
            return patch_generator_loss(D(silhouette, images))

    return judge


alone = {"L_m": descend(whiten, noise), "L_sub": descend(resemble, noise), "L_cGAN": descend(new_patch_judge(), noise)}


def draw(pictures, name):
    fig, axes = lesson.figure(2, len(pictures), height=1.9)
    for column, (title, images) in zip(axes.T, pictures.items(), strict=True):
        column[0].set_title(title)
        for ax, image in zip(column, images, strict=True):
            ax.imshow((image.transpose(1, 2, 0) + 1) / 2)
            ax.axis("off")
    lesson.save(fig, name)


draw({"all began as": noise} | alone, "13_alone")

# %% [markdown]
# L_m leaves the object alone, noise as it was: it never looks there. L_sub copies the substrate, whole. L_cGAN finds
# the white ground and the outline, since its judge sees the silhouette. Inside it finds no calm colour, but a texture
# that this young judge has not learned to refuse yet: the two are still playing.

# %%
outside, inside = 1 - mask, mask


def off_white(images):
    return float((outside * (1 - images)).sum() / (3 * outside.sum()))


def off_target(images):
    return float((inside * abs(images - target)).sum() / (3 * inside.sum()))


for name, images in ({"start": noise} | alone).items():
    print(f"{name:7} background from white {off_white(images):.3f}   object from substrate {off_target(images):.3f}")
assert off_white(alone["L_m"]) < 0.1 and np.allclose(inside * alone["L_m"], inside * noise, atol=1e-5)
assert off_white(alone["L_sub"]) < 0.1 and off_target(alone["L_sub"]) < 0.1
assert off_target(alone["L_cGAN"]) > 0.2 and off_white(alone["L_cGAN"]) < 0.7 * off_white(noise)

# %% [markdown]
# ## L_p and L_n: the classifier sees the wanted, and nothing else
#
# With p for the classifier's probabilities and C for the wanted classes:
#
#     L_p  =  - mean over C of log(|C| p_c)              0 when the wanted share all probability equally
#     L_n  =  - sum over the others of log(1 - p_u)      0 when nothing is left to the others
#
# Both are needed when several classes are wanted at once. Three answers of a net of four classes, wanted are the first
# two:

# %%
for words, p in (("one of two, certain", (0.97, 0.01, 0.01, 0.01)), ("both, equally", (0.49, 0.49, 0.01, 0.01)),
                 ("something else", (0.01, 0.01, 0.97, 0.01))):
    x = Tensor(np.log([p]))
    L_p, L_n = (float(loss(x, [0, 1]).numpy()) for loss in (wanted_loss, unwanted_loss))
    print(f"{words:20} L_p {L_p:.2f}  L_n {L_n:.2f}")
    assert (words == "both, equally") == (float(classifier_loss(x, [0, 1]).numpy()) < 0.1)

# %% [markdown]
# ## Views
#
# A classifier can be convinced by marks that nobody else takes for a 3. Such marks tend to work from one point of view
# alone. So show it each picture from a new side at every step: nearer, turned, shifted, blurred, noisy (Athalye et al.
# 2018). We start from the substrate, descend L_p + L_n with and without views, and then judge both by views that no
# descent has seen.

# %%
eye = DigitEye(load(lesson.ROOT / "weights" / "digits.h5"))
settings = ViewSettings(per_image=3, scale=(0.7, 1.1), rotation=0.25, shift=0.2, flip=False)
fresh = draw_views(np.random.default_rng(9), 2, replace(settings, per_image=40), SIZE, SIZE, eye.side)


def convince(views):
    rng = np.random.default_rng(1)

    def loss(images):
        drawn = draw_views(rng, 2, settings, SIZE, SIZE, eye.side) if views else None
        return classifier_loss(eye.scores(look(images, drawn) if views else whole(images, eye.side)), [WANTED])

    return loss


def probability(images, views=None):
    with no_grad():
        seen = whole(Tensor(images), eye.side) if views is None else look(Tensor(images), views)
        return float(ops.exp(ops.log_softmax(eye.scores(seen))).numpy()[:, WANTED].mean())


def all_together(views):
    judge, see = new_patch_judge(), convince(views)
    weights = PAPER_WEIGHTS | {"split": 0.0}  # it compares a generator's maps, and there is no generator

    def loss(images):
        return weighted_sum({"cgan": judge(images), "vgg": see(images), "background": whiten(images),
                             "substrate": resemble(images)}, weights)

    return loss


print(PAPER_WEIGHTS)
seen_as = {"L_p + L_n": descend(convince(False), target), "the same, views": descend(convince(True), target),
           "all": descend(all_together(False), target), "all, views": descend(all_together(True), target)}
draw(seen_as, "13_convinced")

# %%
for name, images in ({"start": target} | seen_as).items():
    print(f"{name:16} p(3) whole {probability(images):.2f}, fresh views {probability(images, fresh):.2f}   "
          f"background {off_white(images):.3f}, object {off_target(images):.3f}")
least = 0.7 if flags.quick else 0.9
assert probability(target) < 0.2 and all(probability(images) > least for images in seen_as.values())
assert probability(seen_as["all, views"], fresh) > probability(seen_as["all"], fresh) - 0.01
assert off_white(seen_as["all, views"]) < 0.05 < off_white(seen_as["the same, views"])
assert off_target(seen_as["all, views"]) < (1.1 if flags.quick else 0.85) * off_target(seen_as["the same, views"])

# %% [markdown]
# The first two columns: L_p + L_n uses whatever it can reach, the background too, and lets the object go. The last two:
# all judges together. The background stays white, the object keeps more of its colour, and the 3 is made inside.
# Without views, it is certain for the classifier and a tangle to the eye; with views it is a plainer 3, and the
# fresh views confirm it. The numbers differ less than the pictures do.
#
# ## The sixth: L_split
#
# A generator has one more duty: the images of one batch must differ. The paper asks this of the maps inside it. For two
# maps a and b, and the mean over all pairs of images:
#
#     F(a, b)  =  mean of tanh(((a - b) / 25) ** 4), from 0 (the same) to 1
#     L_split  =  - mean over pairs of log F
#
# The paper prints it without the minus. Try both on a toy: six maps of two numbers each, so each map is a dot in the
# plane. We move the dots downhill. A third form divides by the maps' root mean square first.

# %%
dots = np.random.default_rng(8).normal(0, 1, (6, 2, 1, 1))


def roam(**form):
    at, path = dots.copy(), [dots[..., 0, 0]]
    for _ in range(300):
        leaf = Tensor(at, requires_grad=True)
        split_loss([leaf], weights=[1.0], **form).backward()
        at = at - 0.02 * leaf.grad.numpy()
        path.append(at[..., 0, 0])
    return np.array(path)


paths = {"as we minimise it": roam(), "as it is printed": roam(sign=1), "in units of the maps": roam(unit=True)}
fig, axes = lesson.figure(1, 3, height=2.7)
for ax, (title, path) in zip(axes, paths.items(), strict=True):
    ax.plot(path[:, :, 0], path[:, :, 1], color=lesson.GREY, lw=1)
    ax.plot(*path[0].T, "o", color=lesson.ORANGE, label="first")
    ax.plot(*path[-1].T, "o", color=lesson.BLUE, label="last")
    ax.set(title=title, xlabel="first number", aspect="equal", xlim=(-6, 6), ylim=(-6, 6))
axes[0].set_ylabel("second number")
axes[0].legend(fontsize=8)
lesson.save(fig, "13_split")


def apart(at):
    return np.mean([np.linalg.norm(a - b) for i, a in enumerate(at) for b in at[:i]])


print({title: f"{apart(path[0]):.1f} -> {apart(path[-1]):.1f}" for title, path in paths.items()})
grown = {unit: [float(split_loss([Tensor(k * dots)], weights=[1.0], unit=unit).numpy()) for k in (1, 2)]
         for unit in (False, True)}
print(f"maps twice as large: L_split {grown[False][0]:.1f} -> {grown[False][1]:.1f}, "
      f"in units {grown[True][0]:.1f} -> {grown[True][1]:.1f}")
before = apart(dots[..., 0, 0])
ratio = {title: apart(path[-1]) / before for title, path in paths.items()}
assert ratio["as we minimise it"] > 1.5 and ratio["as it is printed"] < 0.1
assert 1.0 < ratio["in units of the maps"] < 1.5
assert grown[False][1] < grown[False][0] - 1 and np.isclose(*grown[True], atol=1e-3)

# %% [markdown]
# With the minus the dots flee each other; as printed they fall onto one point, against the stated purpose. So the
# package takes the minus. It leaves a way out: maps that only grow lower the loss, and in a real run they grew until
# nothing else was learned (RESULTS.md). In units of the maps that way is closed: the dots spread a little and stay.
#
# ## What you learned
#
# * Each loss is a judge with one concern, and alone it ruins the rest. Weights settle the quarrel.
# * L_m and L_sub know each pixel's place; the patch judge knows texture and outline; only the classifier knows meaning.
# * A classifier from one view alone can be convinced by a tangle. Views make the marks plainer.
# * L_split needs its minus, and a unit, or maps grow instead of differing.
#
# ## Exercises
#
# **1.** Write the slope of L_sub for one value, by d, by hand; 0 at d = 0. How does it grow towards |d| = 2?
# **2.** Write L_split for one layer in NumPy, with plain loops over the pairs, and with the minus.


# %%
def exercise_1(d):
    """d: an array of differences, |d| < 2. Returns the slope of |d| - log(1 - d d / 4) at each."""
    raise NotImplementedError("yours to write")


def check_1(slope):
    d = np.array([-1.9, -0.7, -0.01, 0.0, 0.3, 1.2, 1.99])
    got = np.asarray(slope(d.copy()))
    assert got.shape == d.shape and got[3] == 0, "at d = 0 it should be 0"
    for value, found in zip(d[d != 0], got[d != 0], strict=True):
        def loss(x):
            return abs(x) - np.log(1 - x * x / 4)

        expected = (loss(value + 1e-6) - loss(value - 1e-6)) / 2e-6
        assert np.isclose(found, expected, rtol=1e-4), f"at d = {value} it should be near {expected:.3f}"


lesson.exercise(exercise_1, check_1)


# %%
def exercise_2(maps, scale):
    """maps: (N, channels, side, side). Returns L_split of this one layer, a number."""
    raise NotImplementedError("yours to write")


def check_2(split):
    for n, scale in ((2, 1.0), (4, 3.0)):
        maps = np.random.default_rng(n).standard_normal((n, 3, 4, 4))
        expected = float(split_loss([Tensor(maps)], scale=scale, weights=[1.0]).numpy())
        assert np.isclose(split(maps.copy(), scale), expected, rtol=1e-4), f"for {n} maps it should be {expected:.3f}"


lesson.exercise(exercise_2, check_2)
