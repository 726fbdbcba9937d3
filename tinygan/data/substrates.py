"""Substrates: the objects on white that a GPAN makes images of, each with the mask of where the object is.

An item is a pair (T, m): T is the picture of an object on a white background, m is 1 where the object is. Items
come from image files, from a folder of them, or from a built-in set of drawn shapes that needs no file at all.
Whatever the source, T is exactly white (+1) outside the mask.
"""

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from tinygan.data.files import is_systems, shown
from tinygan.data.images import SUFFIXES, read_image, resize_image
from tinygan.data.shapes import SHAPES, draw_item
from tinygan.errors import TinyganError, UsageError
from tinygan.kernels.arrays import xp_of

NEAR_WHITE = 0.9  # in [-1, 1]: 242 of 255. JPEG leaves a white background above it, light grey cloth below it
MIN_BACKGROUND = 0.05  # share of the image that must be white: a bright corner of a photo is no white background
MIN_OBJECT = 0.001  # share of the image: less is dust on a white sheet
MASK_SUFFIX = ".mask.png"  # in any case
MIRRORED = "; half of them are mirrored"
CONDITIONS = ("silhouette", "edges", "substrate")

Draw = Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]]


class Substrates:
    """An endless source of substrates, each an object on white and its mask: `next(rng, n)` draws n of them.

    open_substrates and drawn_shapes make one. size: pixels of a side; channels: 3, or 1 for grey; name: words for
    `describe`. draw(rng, n) returns what `next` does. The object keeps no state: the Generator alone determines the
    items, so a saved Generator is a saved position.
    """

    def __init__(self, draw: Draw, size: int, channels: int, name: str) -> None:
        self.size, self.channels, self.name = size, channels, name
        self._draw = draw

    def next(self, rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Draw n items: T (n, channels, size, size) float32 in [-1, 1] and m (n, 1, size, size) float32 of 0 and 1.

        T is +1 wherever m is 0. Raises UsageError for n < 1.
        """
        if n < 1:
            raise UsageError(f"the number of substrates must be at least 1, not {n}")
        return self._draw(rng, int(n))

    def describe(self) -> str:
        """Describe on one line for a log where the substrates come from, and their size."""
        return f"{self.name}, {self.channels} x {self.size} x {self.size}"


def open_substrates(source: str | Path | Sequence[str | Path] | None, size: int, channels: int = 3,
                    **options: float | bool) -> Substrates:
    """Open the substrates that `source` names: None the drawn shapes, a folder, one image file, or several.

    size: pixels of a side; channels: 3, or 1 for grey. options: threshold, the value in [-1, 1] from which on a pixel
    counts as white where a picture has no mask (0.9, our choice), and flip, whether half of the items are mirrored.
    Raises UsageError for an unusable size, number of channels or option, TinyganError for files that cannot be read
    or show no object on white.
    """
    if source is None:
        return drawn_shapes(size, channels)
    paths = [source] if isinstance(source, (str, Path)) else list(source)
    if len(paths) == 1 and Path(paths[0]).is_dir():
        return from_folder(paths[0], size, channels, **options)
    return from_files(paths, size, channels, **options)


def condition(mask: np.ndarray, target: np.ndarray, kind: str = "silhouette") -> np.ndarray:
    """Compute the condition of G and D: x, of target's shape (n, C, S, S), in [-1, 1].

    silhouette: the mask, object +1 and background -1. edges: the object's outline +1 on -1, S / 64 pixels wide
    (at least 1) and inside the mask; the border of the image counts as background. substrate: the target itself,
    which gives a conditional discriminator little information, since its real pair then shows one image twice. mask is
    (n, 1, S, S) of 0 and 1. NumPy or CuPy. The silhouette is our choice for what the paper leaves open. Raises
    UsageError for another kind.
    """
    if kind not in CONDITIONS:
        raise UsageError(f"unknown condition {kind!r}: give one of {', '.join(CONDITIONS)}")
    if kind == "substrate":
        return target
    xp = xp_of(target)
    drawn = mask if kind == "silhouette" else mask * (1 - _eroded(xp, mask, max(1, mask.shape[-1] // 64)))
    return xp.broadcast_to(2 * drawn - 1, target.shape).astype(target.dtype)


def _eroded(xp, mask: np.ndarray, steps: int) -> np.ndarray:
    """Erode the mask by its outermost `steps` pixels: a pixel stays when it and its four neighbours are object."""
    for _ in range(steps):
        wide = xp.pad(mask, ((0, 0), (0, 0), (1, 1), (1, 1)))
        mask = mask * wide[..., :-2, 1:-1] * wide[..., 2:, 1:-1] * wide[..., 1:-1, :-2] * wide[..., 1:-1, 2:]
    return mask


def _check_format(size: int, channels: int) -> None:
    if size < 8:
        raise UsageError(f"substrates are at least 8 pixels wide, not {size}")
    if channels not in (1, 3):
        raise UsageError(f"substrates have 1 or 3 channels, not {channels}")


# ---- Items from image files ----


def from_files(paths: Iterable[str | Path], size: int, channels: int = 3, *, threshold: float = NEAR_WHITE,
               flip: bool = False) -> Substrates:
    """Make substrates of image files: the objects of `paths`, each padded with white to a square and resized.

    Where the object is, is decided by the first of these that is there:

    - NAME.mask.png (in any case) beside the image NAME.png (or .jpg ...), of the same size, see `read_mask`;
    - transparency: alpha > 0.5 is object, unless no pixel is transparent;
    - white background: a pixel is background when all its channels lie above `threshold` (in [-1, 1]) and a path
      of such pixels joins it to the border of the image. White inside an object so stays object; so does the
      white that a handle encloses, for which a mask or transparency is the remedy.

    A mask among `paths` (toys/*.png names it, too) is taken as the mask of its image. flip: mirror each drawn item with
    probability 1/2, the only augmentation; describe() mentions it. All images are held in memory, as (channels + 1) *
    size**2 bytes each. Raises TinyganError, one line, for a file that cannot be read, holds no object or has no
    background; UsageError for a wrong size, number of channels or threshold.
    """
    _check_options(size, channels, threshold)
    paths = [Path(path) for path in paths]
    masks = {folder: _masks_in(folder) for folder in {path.parent for path in paths}}
    of_images = {mask for path in paths for mask in masks[path.parent].get(path.stem.lower(), ())}
    paths = [path for path in paths if path not in of_images]
    if not paths:
        raise UsageError("no image files given for the substrates")
    items = np.stack([_read_item(path, masks[path.parent], size, channels, threshold) for path in paths])
    name = f"substrates from {shown(paths[0].name)}" if len(paths) == 1 else f"substrates from {len(paths)} files"
    return Substrates(_from_memory(items, flip), size, channels, name + MIRRORED * flip)


def from_folder(path: str | Path, size: int, channels: int = 3, *, threshold: float = NEAR_WHITE,
                flip: bool = False) -> Substrates:
    """Make substrates of all images in a folder and the folders in it, linked ones too, each folder once.

    Names that start with a dot are passed over. Files that do not serve (unreadable, no object, no background) are
    left out and counted in describe(), with the first reason; when none serves, that is an error. Else as from_files.
    """
    _check_options(size, channels, threshold)
    folder = Path(path)
    if not folder.is_dir():
        raise TinyganError(f"{shown(folder)} is no folder: give one with images on white or transparent background")
    files = files_in(folder)
    images = [file for file in files
              if file.suffix.lower() in SUFFIXES and not file.name.lower().endswith(MASK_SUFFIX)]
    if not images:
        raise TinyganError(f"no images in {shown(folder)}: {describe_files(files)}; expected {', '.join(SUFFIXES)}")
    masks = {place: _masks_in(place) for place in {file.parent for file in images}}
    items, problems = [], []
    for file in images:
        try:
            items.append(_read_item(file, masks[file.parent], size, channels, threshold))
        except TinyganError as problem:
            problems.append(str(problem))
    if not items:
        raise TinyganError(f"none of the {len(images)} images in {shown(folder)} serves as a substrate; "
                           f"the first: {problems[0]}")
    left_out = f" ({len(problems)} left out; the first: {problems[0]})" if problems else ""
    name = f"substrates from {len(items)} images in {shown(folder)}{left_out}"
    return Substrates(_from_memory(np.stack(items), flip), size, channels, name + MIRRORED * flip)


def files_in(folder: Path) -> list[Path]:
    """List the files below a folder, sorted, but for hidden ones and what systems leave there.

    A folder that links lead to twice, or back to, is searched once.
    """
    files, visited = [], set()
    for place, folders, names in os.walk(folder, followlinks=True):
        here = os.stat(place)
        known = (here.st_dev, here.st_ino) in visited
        visited.add((here.st_dev, here.st_ino))
        folders[:] = [] if known else sorted(name for name in folders if not name.startswith("."))
        if not known:
            files += [Path(place, name) for name in names if not name.startswith(".") and not is_systems(name)]
    return sorted(file for file in files if file.is_file())


def _masks_in(folder: Path) -> dict[str, list[Path]]:
    """Map lower-case stem -> masks of the images with that stem, several only where names differ in case alone."""
    masks: dict[str, list[Path]] = {}
    with contextlib.suppress(OSError):  # a folder that is not there is reported with its images
        for name in sorted(os.listdir(folder)):
            if name.lower().endswith(MASK_SUFFIX) and not name.startswith("."):
                masks.setdefault(name[:-len(MASK_SUFFIX)].lower(), []).append(folder / name)
    return masks


def _check_options(size: int, channels: int, threshold: float) -> None:
    _check_format(size, channels)
    if not -1 <= threshold < 1:
        raise UsageError(f"the near-white threshold lies in [-1, 1), black to white, not {threshold}")


def describe_files(files: list[Path]) -> str:
    """Describe the files of a folder without images, counted by extension."""
    if not files:
        return "it is empty"
    counts = Counter(file.suffix.lower() or "without extension" for file in files)
    return f"{len(files)} files there ({', '.join(f'{count} {suffix}' for suffix, count in counts.most_common(5))})"


def _from_memory(items: np.ndarray, flip: bool) -> Draw:
    """Make the function that draws from uint8 items (N, channels + 1, size, size), whose last channel is the mask."""

    def draw(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
        rounds = [rng.permutation(len(items)) for _ in range(-(-n // len(items)))]  # no item twice before all came
        chosen = items[np.concatenate(rounds)[:n]]
        if flip:
            mirrored = rng.random(n) < 0.5
            chosen[mirrored] = chosen[mirrored, ..., ::-1]
        target = chosen[:, :-1].astype(np.float32)
        target *= 2 / 255
        target -= 1
        return target, (chosen[:, -1:] > 0).astype(np.float32)

    return draw


def read_mask(path: str | Path) -> np.ndarray:
    """Read a mask file: bool (H, W), True where the object is.

    Transparency: what is opaque is object (so paint programs and background removers draw masks), or what is white of
    it, where all that is opaque is black and white. Else light pixels are object; of two colours the lighter one, and
    in a picture of several that are all dark, numbers of labels, or with hues, colours of labels, all but black.
    Raises TinyganError as read_image does.
    """
    drawn, alpha = read_image(path)
    grey, hue = drawn.mean(axis=0), np.ptp(drawn, axis=0) > 0.1
    if alpha is not None and float(alpha.min()) < 0.5:
        opaque = alpha > 0.5
        # What lay on white is taken off it again: half-transparent black at an outline is black.
        grey = 1 - (1 - grey[opaque]) / alpha[opaque]
        if not hue[opaque].any() and (abs(grey) > 0.9).mean() > 0.9:
            opaque[opaque] = grey > 0
        return opaque
    other = (drawn != drawn[:, :1, :1]).any(axis=0)
    if other.any() and (drawn[:, other] == drawn[:, other][:, :1]).all():  # two colours in all
        lighter = grey[other][0] - grey[0, 0]
        if lighter:
            return other if lighter > 0 else ~other
    if hue.mean() > MIN_OBJECT or grey.max() <= 0:
        return (drawn > -1).any(axis=0)
    return grey > 0


def _mask_of(path: Path, masks: dict[str, list[Path]]) -> Path | None:
    """Find the mask file of an image; raise TinyganError where there are several and none has just its name."""
    its_masks = masks.get(path.stem.lower(), [])
    exact = [mask for mask in its_masks if mask.name == path.stem + MASK_SUFFIX]
    same = exact or [mask for mask in its_masks if mask.name.startswith(path.stem)] or its_masks
    if len(same) > 1:
        raise TinyganError(f"{shown(path)} has {len(same)} masks, {' and '.join(shown(m.name) for m in same)}: "
                           "keep one")
    return same[0] if same else None


def _read_item(path: Path, masks: dict[str, list[Path]], size: int, channels: int, threshold: float) -> np.ndarray:
    """Read one image file as uint8 (channels + 1, size, size): the picture on white, then the mask (0 or 255)."""
    rgb, alpha = read_image(path)
    name = shown(path)
    mask_file = _mask_of(path, masks)
    least_background = 0.0  # a mask and transparency are deliberate
    if mask_file is not None:
        mask = read_mask(mask_file)
        if mask.shape != rgb.shape[1:]:
            sizes = [f"{array.shape[-1]} x {array.shape[-2]}" for array in (mask, rgb)]
            raise TinyganError(f"{shown(mask_file)} is {sizes[0]} but its image {sizes[1]}: "
                               "make the mask as large as the image")
    elif alpha is not None and float(alpha.min()) < 0.5:
        mask = alpha > 0.5
    else:
        least_background = MIN_BACKGROUND
        mask = ~border_region((rgb > threshold).all(axis=0))
    share = float(mask.mean())
    if share < MIN_OBJECT and mask_file is not None:
        raise TinyganError(f"no object found in {name}: {shown(mask_file.name)} is black; "
                           "make it white where the object is")
    if share < MIN_OBJECT:
        raise TinyganError(f"no object found in {name}: all of it is white or transparent; give an object on white, "
                           "or raise the near-white threshold")
    if share >= 1 - least_background and mask_file is not None:
        raise TinyganError(f"no background found in {name}: {shown(mask_file.name)} marks all of it as object; "
                           "make it black where the background is")
    if share >= 1 - least_background:
        raise TinyganError(f"no background found in {name}: give it a transparent or white background, "
                           f"or a mask in {shown(path.stem + MASK_SUFFIX)} (white where the object is)")
    rgb = np.where(mask, rgb, np.float32(1))  # or the background's own colour would mix in at the outline
    if channels == 1:
        rgb = rgb.mean(axis=0, keepdims=True)
    # Padding is white: so is the background of the mask in this picture of it, where the object is black.
    small = resize_image(1 - 2 * mask[None].astype(np.float32), size, fit="pad")[0] < 0
    if not small.any():
        raise TinyganError(f"the object in {name} is too thin to show at {size} pixels: choose a larger size")
    picture = np.where(small, resize_image(rgb, size, fit="pad"), np.float32(1))
    item = np.empty((channels + 1, size, size), np.uint8)
    item[:-1] = np.rint((picture + 1) * 127.5)
    item[-1] = small * np.uint8(255)
    return item


def border_region(candidate: np.ndarray) -> np.ndarray:
    """Find the pixels of a boolean image (H, W) that a path of True pixels (four neighbours) joins to its border.

    A flood fill without a queue: each row's runs of True are the nodes, runs that touch in neighbouring rows are
    joined, and all take the smallest number in their component (label propagation with pointer jumping, after
    Shiloach and Vishkin 1982), in a few rounds of array operations however winding the paths are.
    """
    candidate = np.asarray(candidate, bool)
    starts = candidate.copy()
    starts[:, 1:] &= ~candidate[:, :-1]
    run = np.cumsum(starts.ravel()).reshape(candidate.shape)  # numbered from 1; meaningful where candidate
    # One pixel of each overlap is enough: its first, where one of the two runs starts.
    touching = candidate[1:] & candidate[:-1] & (starts[1:] | starts[:-1])
    above, below = run[:-1][touching], run[1:][touching]
    label = np.arange(int(run[-1, -1]) + 1)
    while True:
        lowest = np.minimum(label[above], label[below])
        merged = label.copy()
        np.minimum.at(merged, label[above], lowest)
        np.minimum.at(merged, label[below], lowest)
        merged = merged[merged]
        if (merged == label).all():
            break
        label = merged
    edge = np.zeros_like(candidate)
    edge[[0, -1]] = edge[:, [0, -1]] = True
    reached = np.zeros(len(label), bool)
    reached[label[run[candidate & edge]]] = True
    return candidate & reached[label[run]]


# ---- Drawn items ----


def drawn_shapes(size: int, channels: int = 3, kinds: Sequence[str] | None = None) -> Substrates:
    """Make substrates that are drawn anew for every item: a shape (of `kinds`) in flat colour, stripes or a blend.

    Each item draws its kind, place (up to 0.12 off the centre, where the image spans [-1, 1]), size (radius 0.6
    to 0.85), tilt (up to 0.2 radians) and light or middle colours, of which none is near white: the darkest
    channel of a pixel in the mask stays below NEAR_WHITE. The mask takes the pixels that are covered by half and
    more; inside it the outline blends into white, so that it has no stairs. Raises UsageError for an
    unknown kind, a size below 8 or a number of channels other than 1 and 3.
    """
    _check_format(size, channels)
    names = list(SHAPES) if kinds is None else list(kinds)
    unknown = [name for name in names if name not in SHAPES]
    if unknown or not names:
        problem = f"unknown shape {', '.join(map(repr, unknown))}" if unknown else "no shapes to draw"
        raise UsageError(f"{problem}: choose from {', '.join(SHAPES)}")

    def draw(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
        target = np.empty((n, channels, size, size), np.float32)
        mask = np.empty((n, 1, size, size), np.float32)
        for item in range(n):
            target[item], mask[item, 0] = draw_item(rng, names, size, channels)
        return target, mask

    return Substrates(draw, size, channels, f"drawn shapes ({', '.join(names)})")
