# %% [markdown]
# # 13 · Five losses and a sixth
#
# **Goal.** Meet the losses of the paper's GPAN one at a time. Minimise each of them alone over a picture, then all of
# them together. Find out why a classifier should get a picture in many random views.
#
# **You need** lessons 8 (the game) and 11 (a classifier). **Minutes:** 25 to read, half a minute to run.
#
# **The package's tests:** test_gpan_losses.py, test_views.py, test_substrates.py, test_gpan_step.py

# %%
from dataclasses import replace

import lesson
import numpy as np

from tinygan import Tensor, frozen, no_grad, ops
from tinygan.data import condition, drawn_shapes
from tinygan.models import GPANConfig, PatchDiscriminator, ViewSettings, apply_views, draw_views
from tinygan.models.gpan.losses import (
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
from tinygan.models.gpan.views import plain_view
from tinygan.nn import Adam, Parameter

flags = lesson.flags()
steps = 60 if flags.quick else 200
SIZE, WANTED = 64, 3

# %% [markdown]
# ## The idea
#
# A GPAN (Chaplygin & Chacksfield 2018, "the paper" from here on) paints a wanted thing, here the digit 3, onto a given
# object, the *substrate*: so that a classifier finds a 3, while the object stays what it is. There are no examples of
# such pictures. So the aim is written as a sum of losses, one for each property. We leave the generator out in this
# lesson: **the pixels themselves are what we train.** A pixel is tanh(a), so that it stays between -1 (black) and 1
# (white), and Adam moves the numbers a.

# %%
kinds = ["heart", "shirt"]
items = [drawn_shapes(SIZE, kinds=[kind]).next(np.random.default_rng(5), 1) for kind in kinds]
target, mask = (np.concatenate(parts) for parts in zip(*items, strict=True))  # T, white around the object, and m
noise = np.random.default_rng(2).normal(0, 0.5, target.shape).clip(-0.95, 0.95).astype(np.float32)


def descend(loss, start, rate=0.05):
    a = Parameter(np.arctanh(start.clip(-0.98, 0.98)).astype(np.float32))  # undoes tanh, which never reaches 1
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
#     L_sub  =  mean of ( |d| - log(1 - d * d / 4) ),      d = T - G
#
# The first part is the plain distance to the substrate T. The second is a barrier: it makes one large difference worse
# than many small ones, and would grow without bound towards the largest there can be, 2, black against white. In code
# it stops at d * d / 4 = 0.99, to stay finite; beyond, |d| alone has a slope. T is white around its object, so L_sub
# calls for a white ground, too; L_m for nothing else, with a separate weight.
#
# ## L_cGAN: small parts look real
#
# cGAN is a *conditional* GAN: its discriminator has a second input, the condition, here the object's silhouette. This
# *patch discriminator* gives a logit for every part of 16 x 16 pixels. The substrate's colours are not in its input. It
# learns during the descent: drawn shapes are real to it, our two pictures are not. The picture's loss is the mean over
# the parts of -log sigmoid(logit), as in lesson 8.


# %%
def whiten(images):
    return background_loss(images, mask)


def resemble(images):
    return substrate_loss(images, target, limit=0.01)  # the barrier ends at d * d / 4 = 0.99


def new_patch_loss():
    D = PatchDiscriminator(GPANConfig(size=SIZE, patch_channels=8), rng=np.random.default_rng(3))
    adam = Adam(D.named_parameters(), lr=2e-3)
    real_shapes, rng = drawn_shapes(SIZE, kinds=kinds), np.random.default_rng(4)
    silhouette = Tensor(condition(mask, target))  # the mask as a picture; of the target it takes the form alone

    def loss(images):
        real, its_mask = real_shapes.next(rng, 2)
        D.zero_grad()
        patch_discriminator_loss(real=D(Tensor(condition(its_mask, real)), Tensor(real)),
                                 fake=D(silhouette, images.detach())).backward()
        adam.step()
        with frozen(D):  # the picture's turn: D is a constant
            return patch_generator_loss(D(silhouette, images))

    return loss


alone = {"L_m": descend(whiten, noise), "L_sub": descend(resemble, noise), "L_cGAN": descend(new_patch_loss(), noise)}


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
# L_m leaves the object as it was, noise: its gradient is 0 there. L_sub copies the substrate, whole. L_cGAN finds the
# white ground and the outline, since the silhouette is an input of its discriminator. The object has a texture and no
# even colour. We think that the discriminator has not trained long enough to reject it; we have not tried longer.

# %%
background, inside = 1 - mask, mask


def off_white(images):
    return float((background * (1 - images)).sum() / (3 * background.sum()))


def off_target(images):
    return float((inside * abs(images - target)).sum() / (3 * inside.sum()))


for name, images in ({"start": noise} | alone).items():
    print(f"{name:7} background from white {off_white(images):.3f}   object from substrate {off_target(images):.3f}")
assert off_white(alone["L_m"]) < 0.1 and np.allclose(inside * alone["L_m"], inside * noise, atol=1e-5)
assert off_white(alone["L_sub"]) < 0.1 and off_target(alone["L_sub"]) < 0.1
assert off_target(alone["L_cGAN"]) > 0.2 and off_white(alone["L_cGAN"]) < 0.7 * off_white(noise)

# %% [markdown]
# ## L_p and L_n: the classifier finds the wanted classes, and no others
#
# With p for the classifier's probabilities and C for the wanted classes:
#
#     L_p  =  - mean over C of log(|C| p_c)              0 when the wanted share all probability equally
#     L_n  =  - sum over the others of log(1 - p_u)      0 when nothing is left to the others
#
# The classifier's loss is their sum. Three answers of a net of four classes, of which the first two are wanted:

# %%
for words, p in (("one of two, certain", (0.97, 0.01, 0.01, 0.01)), ("both, equally", (0.49, 0.49, 0.01, 0.01)),
                 ("something else", (0.01, 0.01, 0.97, 0.01))):
    x = Tensor(np.log([p]))  # scores whose softmax is p
    L_p, L_n = (float(loss(x, [0, 1]).numpy()) for loss in (wanted_loss, unwanted_loss))
    print(f"{words:20} L_p {L_p:.2f}  L_n {L_n:.2f}")
    assert (words == "both, equally") == (float(classifier_loss(x, [0, 1]).numpy()) < 0.1)

# %% [markdown]
# L_n alone is small when one wanted class has all probability, as in the first row; L_p is not. L_p in turn is 0 only
# where L_n is 0 too, so L_n adds no new minimum: it is a second gradient against the other classes, and the paper has
# both.
#
# ## Views
#
# A classifier can be sure of marks that no person takes for a 3. Such marks may work from one point of view
# alone. So give it each picture in new *views* at every step, here three: nearer, turned, shifted, and by default
# somewhat blurred and noisy (after Athalye et al. 2018). A mirrored 3 is no 3, so there is no flip. Below, `plain_view`
# shrinks the entire picture to the 28 x 28 pixels that the classifier takes, and `apply_views` resamples it to the
# drawn views instead. We start from the substrate, descend L_p + L_n with and without views, and measure both through
# views that no descent has used.

# %%
classifier = lesson.digit_net()
settings = ViewSettings(per_image=3, scale=(0.7, 1.1), rotation=0.25, shift=0.2, flip=False)
fresh = draw_views(np.random.default_rng(9), 2, replace(settings, per_image=40), SIZE, SIZE, classifier.side)


def class_loss(views):
    rng = np.random.default_rng(1)

    def loss(images):
        if views:
            inputs = apply_views(images, draw_views(rng, 2, settings, SIZE, SIZE, classifier.side))
        else:
            inputs = plain_view(images, classifier.side)
        return classifier_loss(classifier.scores(inputs), [WANTED])

    return loss


def probability(images, views=None):
    with no_grad():
        inputs = plain_view(Tensor(images), classifier.side) if views is None else apply_views(Tensor(images), views)
        return float(ops.exp(ops.log_softmax(classifier.scores(inputs))).numpy()[:, WANTED].mean())


def all_together(views):
    cgan, vgg = new_patch_loss(), class_loss(views)
    weights = PAPER_WEIGHTS | {"split": 0.0}  # the sixth, below: it needs a generator

    def loss(images):
        return weighted_sum({"cgan": cgan(images), "vgg": vgg(images), "background": whiten(images),
                             "substrate": resemble(images)}, weights)

    return loss


print("the paper's weights:", PAPER_WEIGHTS)  # vgg: L_p + L_n, background: L_m, substrate: L_sub
drawn = {"L_p + L_n": descend(class_loss(False), target), "the same, views": descend(class_loss(True), target),
           "all": descend(all_together(False), target), "all, views": descend(all_together(True), target)}
draw(drawn, "13_classified")

# %%
for name, images in ({"start": target} | drawn).items():
    print(f"{name:16} p(3) whole {probability(images):.2f}, fresh views {probability(images, fresh):.2f}   "
          f"background {off_white(images):.3f}, object {off_target(images):.3f}")
least = 0.7 if flags.quick else 0.9
assert probability(target) < 0.2 and all(probability(images) > least for images in drawn.values())
assert probability(drawn["all, views"], fresh) > probability(drawn["all"], fresh) - 0.01
for few, all_losses in (("L_p + L_n", "all"), ("the same, views", "all, views")):
    assert off_white(drawn[all_losses]) < 0.03 < off_white(drawn[few])
assert off_target(drawn["all, views"]) < (1.1 if flags.quick else 0.85) * off_target(drawn["the same, views"])

# %% [markdown]
# The first two columns: L_p + L_n changes every pixel, the background too, and the object is lost. The last two: all
# losses together. The background stays white, the object keeps more of its colour, and the 3 is made inside.
# Without views it is a tangle, with views a plainer 3. The numbers show less: under fresh views the full
# run's p(3) was 0.90 without views in the descent and 0.98 with them. So views give marks that survive
# views; that these also look more like a 3 is our impression, without a number.
#
# ## The sixth: L_split
#
# One property is missing: a generator must not paint the same picture for every input (collapse, lesson 8). The paper
# computes this of the maps inside it, at several layers, each with a weight; our toy has one layer, of weight 1. For
# the maps a and b of two images:
#
#     F(a, b)  =  mean over a map's numbers of tanh(((a - b) / 25) ** 4), from 0 (the same) to 1
#     L_split  =  - mean over all pairs of images of log F
#
# 25 and 4 are the paper's. Small differences make a tiny F, but log F still has a slope, about 4 / distance.
# The paper prints it without the minus. Try both on a toy: six maps of two numbers each, so each map is a dot in the
# plane. We move the dots downhill. A third form first divides all maps of a layer by their common root mean square.

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


paths = {"as we minimise it": roam(), "as it is printed": roam(sign=1),  # sign=1: no minus
         "in units of the maps": roam(unit=True)}
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
# With the minus the dots move apart; as printed they fall onto one point, against the stated purpose. So the package
# takes the minus. It has a flaw: larger maps alone lower the loss, and in a real run they grew until nothing else was
# learned (RESULTS.md). In units of the maps their size has no effect: the dots spread a little and stay.
#
# ## What you learned
#
# * Each loss measures one property, and alone it spoils the others. A weighted sum is a compromise.
# * L_m and L_sub compare pixel by pixel; the patch discriminator measures texture and outline; only the classifier
#   measures what the picture shows.
# * Through one view alone a tangle is enough for a classifier. Views make the marks plainer.
# * L_split needs its minus, and a unit, or maps grow instead of differing.
#
# ## Exercises
#
# **1.** Write the derivative of |d| - log(1 - d * d / 4) with respect to d, by hand and without a limit; 0 at d = 0.
# **2.** Write L_split for one layer in NumPy, with plain loops over each pair of different images once, and with the
# minus. `scale` stands where the formula has 25, and maps[i] is the map of image i.


# %%
def exercise_1(d):
    """d: an array of differences, |d| < 2. Returns the slope of |d| - log(1 - d d / 4) at each."""
    raise NotImplementedError("yours to write")


def check_1(slope):
    d = np.array([-1.9, -0.7, -0.01, 0.0, 0.3, 1.2, 1.99])
    got = np.asarray(slope(d.copy()))
    assert got.shape == d.shape and got[3] == 0, "at d = 0 it should be 0"
    for value, result in zip(d[d != 0], got[d != 0], strict=True):
        def loss(x):
            return abs(x) - np.log(1 - x * x / 4)

        expected = (loss(value + 1e-6) - loss(value - 1e-6)) / 2e-6
        assert np.isclose(result, expected, rtol=1e-4), f"at d = {value} it should be near {expected:.3f}"


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
