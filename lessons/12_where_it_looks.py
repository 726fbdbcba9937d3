# %% [markdown]
# # 12 · Where it looks
#
# **Goal.** Ask a classifier which places of a picture made it choose a class. Compute Grad-CAM, prove that the package
# computes it exactly, and then test whether its map is right, with a check that uses no derivative at all.
#
# **You need** lesson 11 (a classifier, its maps and its head). **Minutes:** 20 to read, seconds to run. It uses
# the digit classifier that comes with the project, or a VGG16 with `--classifier FILE`.
#
# **The package's tests:** test_gradcam.py, test_digits.py, test_vgg16.py

# %%
import lesson
import numpy as np

from tinygan import Tensor, grad, no_grad, ops
from tinygan.app.heatmap import overlay, resized
from tinygan.data import drawn_shapes, load_mnist
from tinygan.data.mnist import BUNDLED
from tinygan.models import grad_cam, load_vgg16
from tinygan.models.classifiers import digits
from tinygan.models.classifiers.vgg16 import HEAD

flags = lesson.flags()
vgg16_file = lesson.classifier_file()

# %% [markdown]
# ## The idea
#
# A classifier first makes *maps*, one for each kind of thing that it can find, and they still have places: a number of
# map k is large where that thing is. Then its *head* turns all maps into scores. So ask two questions of every map: how
# much does it raise the score of the class, and where is it active? Multiply the answers, and add over the maps. That
# is Grad-CAM (Selvaraju et al. 2017). With A_k for map k and y for the score of the class, before the softmax:
#
#     alpha_k  =  mean over places of  dy / dA_k            how much map k raises the score
#     map      =  max(0, sum over k of  alpha_k A_k)        where those maps are active
#
# Backpropagation ends at the maps, so it costs no more than the head.
#
# ## By hand, through fully-connected layers
#
# VGG16's head is three matrix products with a ReLU after the first two. A ReLU passes a slope on where its input was
# above 0, and stops it elsewhere, so the derivative can be written down:
#
#     h6 = W6 a + b6        h7 = W7 relu(h6) + b7        y = W8[c] relu(h7) + b8
#     dy/da  =  W6' ( [h6 > 0] * ( W7' ( [h7 > 0] * W8[c] ) ) )              ' is the transpose
#
# Without a VGG16 file we take random weights of the same form.

# %%
rng = np.random.default_rng(0)
if vgg16_file:
    layers = [load_vgg16(vgg16_file).layers[name] for name in HEAD]
    parts = [(layer.weight.numpy().astype(float), layer.bias.numpy().astype(float)) for layer in layers]
else:
    parts = [(rng.standard_normal(shape) / 4, rng.standard_normal(shape[0]) / 4)
             for shape in ((24, 72), (12, 24), (5, 12))]
side = 7 if vgg16_file else 3
a = np.maximum(rng.standard_normal((parts[0][0].shape[1] // side**2, side, side)), 0)  # maps after a ReLU
(w6, b6), (w7, b7), (w8, b8) = parts
c = 1


def by_hand(a, c):
    h6 = w6 @ a.ravel() + b6
    h7 = w7 @ np.maximum(h6, 0) + b7
    slope = (w6.T @ ((h6 > 0) * (w7.T @ ((h7 > 0) * w8[c])))).reshape(a.shape)
    alpha = slope.mean(axis=(1, 2))
    return alpha, np.maximum(np.tensordot(alpha, a, 1), 0)


def head(maps):
    x = maps.reshape(len(maps), -1)
    for w, b in parts[:-1]:
        x = ops.relu(x @ Tensor(w.T) + Tensor(b))
    return x @ Tensor(w8.T) + Tensor(b8)


alpha, expected = by_hand(a, c)
cam = grad_cam(Tensor(a[None]), head, [c], normalise=False)[0]
print(f"largest difference from the closed form: 1e{np.log10(abs(cam - expected).max() + 1e-17):.0f}")
assert expected.max() > 0 and np.allclose(cam, expected, rtol=0, atol=1e-12 * max(1, expected.max()))

# %% [markdown]
# And by differences, without derivatives: raise a whole map by h, lower it by h. That gives the sum of
# its slopes over all places; divided by their number it is alpha.

# %%
h, moved = 1e-6, []
for k in range(min(8, len(a))):
    at = [a.copy(), a.copy()]
    at[0][k] += h
    at[1][k] -= h
    up, down = head(Tensor(np.array(at))).numpy()[:, c]
    moved.append((up - down) / (2 * h) / side**2)
print("alpha by differences:", np.round(moved[:4], 4), " by hand:", np.round(alpha[:4], 4))
assert np.allclose(moved, alpha[:8], atol=1e-6)

# %% [markdown]
# So the package computes the formula. Whether the formula answers our question is another matter.
#
# ## The check: cover a part
#
# Put a white square on the picture. If the score falls, the net needed what was there. Move the square over the whole
# picture, and give each pixel the mean fall over all squares that covered it. This *occlusion map* (Zeiler & Fergus
# 2014) needs dozens of forward passes where Grad-CAM needs one, but it measures what we want to know.

# %%
if vgg16_file:
    classifier = load_vgg16(vgg16_file)
    pictures = np.concatenate([drawn_shapes(classifier.side, kinds=[kind]).next(np.random.default_rng(4), 1)[0]
                               for kind in ("star", "shirt")])[:1 if flags.quick else 2]
else:
    classifier = lesson.digit_net()
    test = load_mnist("test", data_dir=BUNDLED)
    chosen = [np.flatnonzero(test.labels == digit)[k] for k in range(2 if flags.quick else 6) for digit in range(10)]
    pictures = 1 - np.repeat(test.images[chosen][:, None], 3, axis=1).astype(np.float32) / 127.5


def scores(pictures):
    with no_grad():
        batches = [pictures[i:i + 8] for i in range(0, len(pictures), 8)]
        return np.concatenate([classifier.scores(Tensor(batch)).numpy() for batch in batches])


def occlusion(picture, c, square, step):
    n = picture.shape[1]
    corners = [(i, j) for i in range(0, n - square + 1, step) for j in range(0, n - square + 1, step)]
    covered = np.repeat(picture[None], len(corners) + 1, axis=0)  # the last stays whole
    for image, (i, j) in zip(covered, corners, strict=False):
        image[:, i:i + square, j:j + square] = 1  # white
    y = scores(covered)[:, c]
    fall, times = np.zeros((n, n)), np.zeros((n, n))
    for value, (i, j) in zip(y, corners, strict=False):
        fall[i:i + square, j:j + square] += y[-1] - value
        times[i:i + square, j:j + square] += 1
    return fall / np.maximum(times, 1)


answers = scores(pictures).argmax(axis=1)
square, step = (56, 56 if flags.quick else 28) if vgg16_file else (7, 3)
falls = [occlusion(picture, c, square, step) for picture, c in zip(pictures, answers, strict=True)]
cams = [grad_cam(classifier.features(Tensor(picture[None])), classifier.head, [c])[0]
        for picture, c in zip(pictures, answers, strict=True)]
print(f"{len(pictures)} pictures, maps of {cams[0].shape[0]} x {cams[0].shape[1]} places")

# %% [markdown]
# ## What Grad-CAM leaves out
#
# Before we compare, look at the formula again: alpha is a *mean over places*. If the head treats all places alike, for
# instance because it begins by averaging each map, nothing is lost. If it does not, the mean forgets where a map
# counts. The smallest case: one map, active at the left and at the right, and a head that reads the left alone.

# %%
two_spots = np.array([[[0.0, 0, 0, 0, 0, 0], [0, 1, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0]]])
reads_left = np.zeros((1, 3, 6))
reads_left[0, :, :3] = 1.0


def left_head(maps):
    return (maps * Tensor(reads_left)).sum((1, 2, 3)).reshape(len(maps), 1)


toy = grad_cam(Tensor(two_spots[None]), left_head, [0])[0]
print("Grad-CAM, middle row:      ", np.round(toy[1], 2))
print("slope x map, place by place:", np.round((reads_left * two_spots)[0, 1], 2))
assert np.isclose(toy[1, 4], toy[1, 1])  # the spot that has no effect on the score is as bright

# %% [markdown]
# Grad-CAM marks the right spot, which the head never reads. Multiplying slope and map *place by place*, and only then
# adding over maps, would not:
#
#     map  =  max(0, sum over k of  (dy / dA_k) * A_k)        Draelos & Carin 2020 (HiResCAM)


# %%
def place_by_place(picture, c):
    a = Tensor(classifier.features(Tensor(picture[None])).data, requires_grad=True)
    (slope,) = grad(classifier.head(a)[:, int(c):int(c) + 1].sum(), [a])
    return np.maximum((slope.data * a.data).sum(axis=1)[0], 0)


places = [place_by_place(picture, c) for picture, c in zip(pictures, answers, strict=True)]
shown = [3, 7, 0, 1] if not vgg16_file else range(len(pictures))
fig, axes = lesson.figure(len(shown), 4, height=1.75, squeeze=False)
for row, i in zip(axes, shown, strict=True):
    fall = np.maximum(falls[i], 0)
    panels = {f"picture: {classifier.class_names[answers[i]].split(',')[0]}": (pictures[i].transpose(1, 2, 0) + 1) / 2,
              "Grad-CAM": overlay(pictures[i], cams[i]),
              "place by place": overlay(pictures[i], places[i] / max(places[i].max(), 1e-9)),
              "covering it": overlay(pictures[i], fall / max(fall.max(), 1e-9))}
    for ax, (title, panel) in zip(row, panels.items(), strict=True):
        ax.imshow(panel)
        ax.set_title(title, fontsize=9)
        ax.axis("off")
lesson.save(fig, "12_where")

# %% [markdown]
# Yellow is most important, then red, then violet. The last column is the measurement; which column resembles it more?
# Compute a number, and not for chosen pictures alone: the *correlation* of each map with the occlusion map, pixel
# by pixel, from -1 over 0 (nothing in common) to 1, averaged over all pictures. And compute it for two
# baselines: the darkness of the picture itself, and the Grad-CAM of a net that was never trained (Adebayo et al. 2018).


# %%
def agreement(maps):
    size = pictures.shape[2:]
    return np.mean([np.corrcoef(resized(m, size).ravel(), fall.ravel())[0, 1]
                    for m, fall in zip(maps, falls, strict=True) if m.max() > m.min()])


bars = {"Grad-CAM": agreement(cams), "place by place": agreement(places),
        "darkness alone": agreement(1 - pictures.mean(axis=1))}
if not vgg16_file:
    untrained = digits.DigitNet(rng=np.random.default_rng(0))
    bars["Grad-CAM, untrained net"] = agreement(
        [grad_cam(untrained.features(Tensor(picture[None])), untrained.head, [c])[0]
         for picture, c in zip(pictures, answers, strict=True)])
    assert bars["place by place"] > 0.45 and bars["Grad-CAM"] < bars["place by place"] - 0.2
    assert bars["Grad-CAM"] < min(bars["darkness alone"], bars["Grad-CAM, untrained net"])
fig, ax = lesson.figure(1, 1, height=2.2)
ax.bar_label(ax.barh(list(bars), list(bars.values()), color=lesson.BLUE), fmt="%.2f", padding=3)
ax.invert_yaxis()
ax.set(xlabel="mean correlation with what covering shows", xlim=(min(0, *bars.values()) - 0.1, 1))
lesson.save(fig, "12_agreement")

# %% [markdown]
# For the digit classifier Grad-CAM agrees *less* with the measurement than the darkness of the ink does, and less than
# the map of the untrained net. Place by place it is far better. The reason is the one of the two spots: what follows
# these 7 x 7 maps has a weight for every place. A map that looks plausible proves little; comparisons with an
# independent measurement and with baselines show what it is worth.
#
# The GPAN uses Grad-CAM as its paper does, to decide where its discriminator's loss has less weight. Read that use
# with care: with the digit classifier these places are not quite those that its score depends on. A VGG16 gets drawn
# shapes here, which are none of its classes; to try it on a photograph, use gradcam.py.
#
# ## What you learned
#
# * Grad-CAM: how much each map raises a class's score, times where it is active. It needs the head's derivative alone.
# * A closed form and a difference prove that the formula is computed. They do not prove that the formula is right.
# * A mean over places loses the places. It is exact only for a head that treats them alike.
# * An independent measurement and a baseline belong beside every explanation of a net.
#
# ## Exercises
#
# **1.** Which places *lower* the score of the class? Write that map, from the maps and the slopes. **2.** For a head of
# three layers *without* biases, write the place-by-place map by hand, before the max(0, .). Its sum is the score: the
# whole score is shared out among the places, nothing left over. Why?


# %%
def exercise_1(a, slope):
    """a, slope: (channels, h, w). Returns a map (h, w), 0 or more, after Grad-CAM's manner."""
    raise NotImplementedError("yours to write")


def check_1(against):
    for seed in (1, 2, 3):
        r = np.random.default_rng(seed)
        a, slope = r.random((4, 3, 5)), r.standard_normal((4, 3, 5))
        got = np.asarray(against(a.copy(), slope.copy()))

        def opposite(maps, slope=slope):
            return -(maps * Tensor(slope)).sum((1, 2, 3)).reshape(len(maps), 1)

        want = grad_cam(Tensor(a[None]), opposite, [0], normalise=False)[0]
        assert got.shape == (3, 5) and np.allclose(got, want), "it should be the Grad-CAM of minus the score"


lesson.exercise(exercise_1, check_1)


# %%
def exercise_2(a, w6, w7, w8, c):
    """a: (channels, h, w); the weights as above, no biases. Returns the map (h, w) of class c."""
    raise NotImplementedError("yours to write")


def check_2(share):
    r = np.random.default_rng(7)
    for c in (0, 3):
        a, w = r.random((4, 3, 3)), [r.standard_normal(s) for s in ((9, 36), (8, 9), (5, 8))]
        got = np.asarray(share(a.copy(), *w, c))
        y = w[2] @ np.maximum(w[1] @ np.maximum(w[0] @ a.ravel(), 0), 0)
        assert got.shape == (3, 3), "it should be a map of the places"
        assert np.isclose(got.sum(), y[c]), f"it should sum to the score, {y[c]:.3f}"
        a2 = a.copy()
        a2[:, 0, 0] *= 1 + 1e-6
        y2 = w[2] @ np.maximum(w[1] @ np.maximum(w[0] @ a2.ravel(), 0), 0)
        assert np.isclose(got[0, 0], (y2[c] - y[c]) / 1e-6, rtol=1e-3, atol=1e-4), "place (0, 0) has a wrong share"


lesson.exercise(exercise_2, check_2)
