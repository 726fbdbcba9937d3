# %% [markdown]
# # 11 · A network that sees
#
# **Goal.** Read the weights of a large classifier, VGG16, from a file, and know that they were read rightly. See on
# how much of a picture one number inside the net depends, and what each classic misreading of a weight file does.
#
# **You need** lesson 6 (convolution). **Minutes:** 25 to read, half a minute to run. Without a VGG16 file (see
# weights/README.md) the last part uses the digit classifier that comes with the project; with one, add
# `--classifier FILE`.
#
# **The package's tests:** test_vgg16.py, test_convert_vgg16.py, test_digits.py, test_bad_input_gpan.py

# %%
import tempfile
from pathlib import Path

import h5py
import lesson
import numpy as np

from tinygan import Tensor, no_grad
from tinygan.app.vgg16_file import save_vgg16
from tinygan.data import drawn_shapes, load_mnist
from tinygan.data.mnist import BUNDLED
from tinygan.data.shapes import SHAPES
from tinygan.errors import TinyganError
from tinygan.models import VGG16, load_vgg16
from tinygan.models.classifiers.vgg16 import CONVOLUTIONS, HEAD, MAPS

flags = lesson.flags()

# %% [markdown]
# ## The idea: one small filter, repeated
#
# A *classifier* turns a picture into one *score* for each class; the class with the largest score is its answer. VGG16
# (Simonyan & Zisserman 2014) does this with one idea. Slide a *filter* of 3 x 3 weights over the picture, and
# at each place take the weighted sum; set what is negative to zero (*ReLU*). Many filters give many maps; do the same
# with those. After two or three such rounds keep the largest of every 2 x 2 numbers (*max pooling*), so maps are half
# as wide. There are 13 such convolutions in five blocks. Three ordinary matrix products, fc6, fc7 and fc8, turn the
# last maps, pool5, into the scores.
#
# The published net has 64 to 512 filters in each layer. Ours has 8, with random weights: it has learned nothing, but it
# has the same form. The scale sqrt(2 / inputs) keeps numbers at one size from layer to layer (He et al. 2015).


# %%
def random_weights(rng, width=8, head=(16, 16, 5), side=2):
    weights, inputs = {}, 3
    for name in (*CONVOLUTIONS, *HEAD):
        outputs = width if name in CONVOLUTIONS else head[HEAD.index(name)]
        inputs *= side * side if name == "fc6" else 1  # pool5 is a map of side x side
        shape = (outputs, inputs, 3, 3) if name in CONVOLUTIONS else (outputs, inputs)
        scale = np.sqrt(2 / np.prod(shape[1:])) * (0.02 if name == "conv1_1" else 1)  # of 0 to 255
        weights[name] = ((rng.standard_normal(shape) * scale).astype(np.float32),
                         (rng.standard_normal(outputs) * 0.1).astype(np.float32))
        inputs = outputs
    return weights


small = random_weights(np.random.default_rng(0))
net = VGG16(small, class_names=("ant", "bee", "cat", "dog", "elk"))
pictures, _ = drawn_shapes(64).next(np.random.default_rng(1), 8)
with no_grad():
    for name in ("conv1_1", "pool1", "pool3", "pool5"):
        print(f"{name:8}{net.maps(Tensor(pictures), name).shape}")
    scores = net.scores(Tensor(pictures)).numpy()
print(f"scores  {scores.shape}")
assert scores.shape == (8, 5)

# %% [markdown]
# ## The receptive field
#
# A number of the first map is made from 3 x 3 pixels, one of the second from 3 x 3 of those, which is 5 x 5 pixels.
# After a pooling, neighbours lie two pixels apart, so each further filter adds twice as much. The part of the picture
# that a number depends on is its *receptive field*. With a step of `jump` pixels between neighbours:
#
#     field  <-  field + (size - 1) * jump           jump  <-  jump * stride

# %%
fields, field, jump, left = {}, 1, 1, 0
for name in MAPS:
    pool = name.startswith("pool")
    field += jump if pool else 2 * jump
    left -= 0 if pool else jump  # a convolution reaches one step to the left, too
    jump *= 2 if pool else 1
    fields[name] = field
print({name: fields[name] for name in ("conv1_1", "conv1_2", "pool2", "pool3", "pool4", "conv5_3", "pool5")})
assert (fields["pool5"], jump, left) == (212, 32, -90)

# %% [markdown]
# So cell i of pool5 should depend on 212 columns, from 32 i - 90 on. Test it: give the net equal, positive weights,
# make one column of a grey picture brighter, and see whether cell 7 changes.

# %%
fair = {name: (np.ones_like(w[:1, :1] if name not in ("conv1_1", "fc6") else w[:1, :3]) / w[0, :1].size, np.zeros(1))
        for name, (w, b) in random_weights(np.random.default_rng(0), 1, (1, 1, 1), 1).items()}
fair = VGG16(fair, input_range=1, mean=(0, 0, 0), dtype=np.float64)
first, last = 7 * jump + left, 7 * jump + left + 211
columns = np.unique([first - 1, first, last, last + 1, *range(first - 14, last + 14, 8)])
bright = np.zeros((len(columns) + 1, 3, 32, 448))
for image, column in zip(bright, columns, strict=False):
    image[:, :, column] = 0.5
with no_grad():
    cell = fair.features(Tensor(bright)).numpy()[:, 0, 0, 7]
effect = cell[:-1] / cell[-1] - 1  # against the plain grey picture, the last
assert np.array_equal(effect > 1e-12, (columns >= first) & (columns <= last))
middle = abs(columns - (first + last) / 2) < 53
print(f"the middle half of the field has {effect[middle].sum() / effect.sum():.0%} of the effect")
assert 0.6 < effect[middle].sum() / effect.sum() < 0.95

# %%
fig, (ax, curve) = lesson.figure(1, 2, height=3.0)
ax.imshow((drawn_shapes(224, kinds=["bag"]).next(np.random.default_rng(3), 1)[0][0].transpose(1, 2, 0) + 1) / 2)
for name, colour in zip(("pool2", "pool3", "pool4", "pool5"), (lesson.GREEN, lesson.ORANGE, lesson.RED, lesson.BLUE),
                        strict=True):
    low, high = 112 - fields[name] / 2, 112 + fields[name] / 2
    ax.plot([low, high, high, low, low], [low, low, high, high, low], color=colour, label=name)
ax.set(title="what one number depends on", xlabel="pixels, of 224", xlim=(0, 224), ylim=(224, 0))
ax.legend(loc="upper left", bbox_to_anchor=(1.0, 0.9), fontsize=8)
curve.plot(columns - first, effect / effect.max())
curve.set(title="how much each column matters", xlabel="column of pool5's field", ylabel="effect (largest = 1)")
lesson.save(fig, "11_receptive_fields")

# %% [markdown]
# Left: a number of pool2 depends on a detail, one of pool5 on nearly the whole picture. Right: the field's edge is
# where the rule says, to the pixel, yet the middle counts far more than the rim, because more paths lead through it
# (Luo et al. 2016 call this the effective receptive field). Grad-CAM, in the next lesson, relies on it.
#
# ## A weight file with an answer key
#
# HDF5 is a file of named arrays. Ours holds one weight and bias for each layer, and an *answer key*: a picture, and
# the numbers that the net must give for it. Loading means: read, compute, compare.

# %%
folder = tempfile.TemporaryDirectory()
path = Path(folder.name) / "small.h5"
save_vgg16(net, path)
with h5py.File(path) as file:
    print("groups:", *list(file)[:4], "...")
    print("conv1_1/weight:", file["conv1_1/weight"].shape, " channel_order:", file.attrs["channel_order"])
assert np.array_equal(load_vgg16(path).scores(Tensor(pictures)).numpy(), net.scores(Tensor(pictures)).numpy())


def refusal(path):
    try:
        load_vgg16(path)
    except TinyganError as error:
        return str(error).replace(folder.name, "...")
    return "accepted"


def spoil(name, change):
    with h5py.File(path, "r+") as file:
        good = file[name][...]
        file[name][...] = change(good.copy())
    message = refusal(path)
    with h5py.File(path, "r+") as file:
        file[name][...] = good
    return message


def negate_one(w):
    w[3, 2] *= -1  # 9 numbers of 576: of a single filter
    return w


messages = spoil("conv3_2/weight", negate_one), spoil("fc6/weight", lambda w: w[:, ::-1])
print(*messages, sep="\n")
assert all("answer key does not fit" in line for line in messages)
assert refusal(path) == "accepted"  # what was spoilt is whole again

# %% [markdown]
# The file is well formed both times, of the right shapes, its checksums good. Only computing shows that the net is
# not the one that was saved.
#
# ## The ways to misread
#
# Weights travel between programs that lay them out differently, and **every wrong reading below has the right
# shape**. Keras stores filters as (row, column, in, out), *HWIO*; we store (out, in, row, column), *OIHW*. Keras' VGG16
# takes colours in the order blue, green, red (*BGR*), ours red, green, blue. Keras unrolls the last map in the order
# row, column, channel, ours channel, row, column. And the net was trained on colours from 0 to 255 less their mean over
# all photographs. Write our net as Keras would, then read it back: once rightly, and wrongly in eight ways.

# %%
vgg16_file = lesson.classifier_file()
true_net = load_vgg16(vgg16_file) if vgg16_file else net
if vgg16_file:
    pictures, _ = drawn_shapes(true_net.side).next(np.random.default_rng(1), 1 if flags.quick else 3)
side = true_net.head_side
keras = {}
for name, layer in true_net.layers.items():
    w = layer.weight.numpy()
    if name == "fc6":
        w = w.reshape(len(w), -1, side, side).transpose(2, 3, 1, 0).reshape(-1, len(w))
    elif name in HEAD:
        w = w.T
    else:
        w = (w[:, ::-1] if name == "conv1_1" else w).transpose(2, 3, 1, 0)
    keras[name] = np.ascontiguousarray(w), layer.bias.numpy()


def read(order=(3, 2, 0, 1), reshape=False, mirror=False, bgr=True, rows_first=True, **preprocessing):
    weights = {}
    for name, (w, b) in keras.items():
        if name in CONVOLUTIONS:
            w = w.reshape(w.shape[3], w.shape[2], 3, 3) if reshape else w.transpose(order)
            w = w[:, :, ::-1, ::-1] if mirror else w
            w = w[:, ::-1] if bgr and name == "conv1_1" else w
        elif name == "fc6" and rows_first:
            w = w.reshape(side, side, -1, w.shape[1]).transpose(3, 2, 0, 1).reshape(w.shape[1], -1)
        else:
            w = w.T
        weights[name] = np.ascontiguousarray(w), b
    with no_grad():
        return VGG16(weights, **({"mean": true_net.mean, "std": true_net.std, "input_range": true_net.input_range}
                                 | preprocessing)).scores(Tensor(pictures)).numpy()


right = read()
assert np.allclose(right, true_net.scores(Tensor(pictures)).numpy(), rtol=1e-4, atol=1e-4)

# %% [markdown]
# The bar is the size of the error of the scores, over the size of the scores themselves (their differences between
# classes). At 100 % the answer has little to do with the right one.

# %%
wrong = {"reshaped, not transposed": read(reshape=True), "rows and columns swapped": read(order=(3, 2, 1, 0)),
         "filters mirrored": read(mirror=True), "BGR taken for RGB": read(bgr=False),
         "last map in the wrong order": read(rows_first=False), "mean not subtracted": read(mean=(0, 0, 0)),
         "mean in BGR order": read(mean=true_net.mean[::-1]),
         "0 to 1 and 0 to 255 mixed up": read(input_range=256 - true_net.input_range)}


def spread(scores):
    return scores - scores.mean(axis=1, keepdims=True)


error = {name: np.linalg.norm(spread(s - right)) / np.linalg.norm(spread(right)) for name, s in wrong.items()}
fig, ax = lesson.figure(1, 1, height=3.2)
bars = ax.barh(list(error), [min(130, 100 * e) for e in error.values()], color=lesson.BLUE)
ax.bar_label(bars, [f"{100 * e:.0f} %" for e in error.values()], padding=3)
ax.invert_yaxis()
ax.set(xlabel="error of the scores, % of their size (bars end at 130)", xlim=(0, 155))
lesson.save(fig, "11_misread")
assert all(e > 1e-3 for e in error.values())
assert min(error, key=error.get) == "mean in BGR order" and error["last map in the wrong order"] > 0.5

# %% [markdown]
# No reading fails, and none can be told from the file. The mean in the wrong order has the smallest error, and so is
# the most dangerous: the net is only a little worse than it should be. This is why loading recomputes a stored answer.
#
# ## Its answers
#
# Scores become probabilities by the *softmax*: exp(score), divided by the sum over all classes. Now classify pictures
# with a trained net. Without a VGG16 that is the digit classifier, which takes dark ink on white paper.



# %%
def draw(kinds, side):
    rng = np.random.default_rng(4)
    return np.concatenate([drawn_shapes(side, kinds=[kind]).next(rng, 1)[0] for kind in kinds])


if vgg16_file:
    classifier, shown = true_net, draw(list(SHAPES)[:8], true_net.side)
else:
    classifier = lesson.digit_net()
    test = load_mnist("test", data_dir=BUNDLED)
    written = 1 - np.repeat(test.images[:, None], 3, axis=1).astype(np.float32) / 127.5
    shown = np.concatenate([written[:4], draw(("star", "heart", "shirt", "bottle"), 28)])


def probabilities(pictures):
    with no_grad():
        scores = classifier.scores(Tensor(pictures)).numpy().astype(np.float64)
    e = np.exp(scores - scores.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


p = probabilities(shown)
fig, axes = lesson.figure(2, 4, height=2.0)
for ax, picture, row in zip(axes.flat, shown, p, strict=True):
    ax.imshow((picture.transpose(1, 2, 0) + 1) / 2)
    ax.set_title(f"{classifier.class_names[row.argmax()].split(',')[0]}, {row.max():.2f}", fontsize=9)
    ax.axis("off")
lesson.save(fig, "11_named")
assert np.allclose(p.sum(axis=1), 1)
if not vgg16_file:
    count = 200 if flags.quick else 1000
    hit = (probabilities(written[:count]).argmax(axis=1) == test.labels[:count]).mean()
    print(f"right for {hit:.1%} of {count} digits; largest probability for a shape: {p[4:].max():.2f}")
    assert hit > 0.97 and np.array_equal(p[:4].argmax(axis=1), test.labels[:4]) and p[4:].max() > 0.5

# %% [markdown]
# Above each picture stand the net's answer and its probability. It is good at what it was trained on. But it must
# choose among its classes: the probabilities sum to 1 whatever the picture is, so a net of digits calls every shape a
# digit, one of them with a probability above a half. A classifier answers "which of these?", never "is it one of
# these?". This limits the GPAN of lesson 14, too: a picture that scores well need not look like the class.
#
# ## What you learned
#
# * VGG16 is one small filter, repeated; a number of pool5 depends on 212 x 212 pixels, and mostly on their middle.
# * A wrong layout has the right shape. Only a computed answer shows that weights were read rightly.
# * Order of axes, of colours, of the unrolled map, the mean and the range: each has to be right.
# * A classifier chooses among its classes, also for pictures that show none of them.
#
# ## Exercises
#
# **1.** Bring fc6's weight from Keras' form, (row * column * channel, out), to ours, (out, channel * row * column).
# **2.** Count the numbers in a VGG16, weights and biases, from its widths alone. Which layer has most of them?


# %%
def exercise_1(kernel, side):
    raise NotImplementedError("yours to write")


def check_1(reorder):
    for side, channels, out in ((2, 3, 4), (3, 5, 2)):
        kernel = np.random.default_rng(side).standard_normal((side * side * channels, out))
        got = np.asarray(reorder(kernel.copy(), side))
        assert got.shape == kernel.shape[::-1], f"the shape should be {kernel.shape[::-1]}"
        feature_map = np.random.default_rng(5).standard_normal((channels, side, side))
        want = feature_map.transpose(1, 2, 0).reshape(-1) @ kernel
        assert np.allclose(got @ feature_map.reshape(-1), want), "fc6 gives other numbers for the same map"


lesson.exercise(exercise_1, check_1)


# %%
def exercise_2(widths, head, side):
    """widths: of the 13 convolutions. head: of fc6, fc7, fc8. side: of pool5's map. Returns the count of numbers."""
    raise NotImplementedError("yours to write")


def check_2(count):
    total = sum(w.size + b.size for w, b in small.values())
    assert count([8] * 13, [16, 16, 5], 2) == total, f"the small net of this lesson has {total:,}"
    published = [64] * 2 + [128] * 2 + [256] * 3 + [512] * 6
    assert count(published, [4096, 4096, 1000], 7) == 138_357_544, "the published net has 138,357,544"


lesson.exercise(exercise_2, check_2)
folder.cleanup()
