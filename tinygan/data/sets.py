"""Which set of MNIST's family lies in a folder, and which way up its images are.

Fashion-MNIST, KMNIST and EMNIST come in MNIST's format and partly under MNIST's file names, in folders that differ from
source to source: torchvision's NAME/raw, the gzip/ of EMNIST's archive, Kaggle's folder for each file. A set is told by
the start of its file names, else by the folder that it lies in, and the digits among them by their pixels as well:
each digit's mean image is compared with that of the bundled digits. EMNIST's images are stored with rows and columns
exchanged; its digits are recognised under any name.
"""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tinygan.data.files import shown
from tinygan.data.images import SUFFIXES
from tinygan.errors import TinyganError

NAME = re.compile(r"(?P<start>.*?)[-_.]?(?P<split>train|t10k|test)[-_](?P<what>images|labels)[-_.]idx[13][-_]ubyte"
                  r"(?P<zip>\.gz)?", re.IGNORECASE)
PLACE = re.compile(r"mnist|kuzushiji|fashion|ubyte|^(raw|gzip|archive|data)$", re.IGNORECASE)  # folders to search
MAX_DEPTH = 3  # of folders below the one that was named
SPLITS = {"train": ("train",), "test": ("t10k", "test")}
OTHER_FORMS = (".csv", ".npz", ".npy", ".mat", ".pt", ".parquet", ".arff", ".zip", ".tar", ".tgz")
# Of a comparison with the bundled digits. MNIST's two files reach 0.97 and 0.9 from 1,000 images on, and turned,
# mirrored or with labels dealt anew at most 0.5.
ENOUGH, ALIKE = 1000, 0.55


@dataclass(frozen=True)
class Kind:
    """One of the sets: its name, what its images show, its largest label, and whether they are stored transposed."""

    name: str
    shows: str = "digits"
    most: int = 9
    transposed: bool = False


MNIST = Kind("MNIST")
UNKNOWN = Kind("unknown set", "images unlike MNIST's digits")
FASHION, KMNIST = Kind("Fashion-MNIST", "clothes"), Kind("KMNIST", "cursive Japanese characters")
EMNIST = Kind("EMNIST", "digits or letters", 61, True)
PARTS_OF_EMNIST = {  # the six ways in which its makers dealt it
    "digits": Kind("EMNIST's digits", transposed=True), "mnist": Kind("EMNIST's own MNIST", transposed=True),
    "letters": Kind("EMNIST's letters", "letters", 26, True),
    **{name: Kind(f"EMNIST's {name}", "digits and letters", most, True)
       for name, most in (("balanced", 46), ("bymerge", 46), ("byclass", 61))},
}


@dataclass(frozen=True)
class PairOfFiles:
    """Images and labels of one set; pairs differ by the set, the folder and the start of the names, and the depth."""

    kind: Kind
    place: Path
    depth: int
    images: Path
    labels: Path


def find_set(split: str, folder: str | os.PathLike) -> PairOfFiles | None:
    """Find the images and labels of a split in `folder` or in usual folders below it; None without.

    A path that ends with the start of file names, such as gzip/emnist-digits, means the files that start so. Files in
    the folder itself come before those below, and MNIST before its relatives. Raises TinyganError, one line that names
    them, where several of these are there.
    """
    folder = Path(os.path.expanduser(folder))
    start = ""
    if not folder.is_dir() and folder.parent.is_dir():
        folder, start = folder.parent, folder.name.lower()
    groups: dict[tuple, dict[str, list]] = {}
    for place, depth, match, path in _files(folder):
        begin = match["start"].lower()
        if match["split"].lower() in SPLITS[split] and (not start or (begin, depth) == (start, 0)):
            # The names on the mirrors come first, and those with a dot last.
            rank = ("-idx" not in match.string, not match["zip"], match.string)
            group = groups.setdefault((depth, str(place), begin), {"images": [], "labels": []})
            group[match["what"].lower()].append((rank, path))
    pairs = [PairOfFiles(kind_of(begin, Path(place)), Path(place, begin), depth, *(min(pair[what])[1] for what in pair))
             for (depth, place, begin), pair in sorted(groups.items()) if all(pair.values())]
    pairs = [pair for pair in pairs if pair.depth == 0] or pairs
    pairs = [pair for pair in pairs if pair.kind == MNIST] or pairs
    if len({pair.kind for pair in pairs}) > 1:
        several = ", ".join(f"{shown(pair.place)} ({pair.kind.name})" for pair in pairs)
        raise TinyganError(f"{shown(folder)} holds several sets; name one of them with --data-dir: {several}")
    return pairs[0] if pairs else None


def missing(split: str, folder: Path) -> tuple[list[str], str]:
    """List which of "images" and "labels" of a split the folder lacks, and name data of another form that it has."""
    there = {match["what"].lower() for _, _, match, _ in _files(folder) if match["split"].lower() in SPLITS[split]}
    other = ""
    with suppress(OSError):
        names = sorted(name for name in os.listdir(folder) if name.lower().endswith(OTHER_FORMS))
        if names:
            packed = names[0].lower().endswith((".zip", ".tar", ".tgz"))
            other = f"; {shown(names[0])} there {'has to be unpacked' if packed else 'is of another form'}"
    return [what for what in ("images", "labels") if what not in there], other


def describe(folder: Path) -> str:
    """Describe a folder that is empty, or that has pictures in it or in its folders; "" for any other."""
    with suppress(OSError):
        if not os.listdir(folder):
            return "is empty"
    inside = _listed(folder)
    files = [*inside, *(path for below in inside if below.is_dir() for path in _listed(below))]
    if count := sum(path.suffix.lower() in SUFFIXES for path in files):
        return (f"holds {count:,} picture{'s' * (count > 1)} and none of MNIST's files; own pictures cannot be trained "
                "on yet")
    return ""


def _files(folder: Path, depth: int = 0) -> Iterator[tuple[Path, int, re.Match, Path]]:
    """List (folder, its depth, match of the name, path) of the files named like MNIST's; a folder named like one of
    them, as Kaggle has it, is not counted as a folder."""
    for path in _listed(folder):
        match = NAME.fullmatch(path.name)
        if match and path.is_file():
            yield folder, depth, match, path
        elif match:
            for inner in _listed(path):
                if (match := NAME.fullmatch(inner.name)) and inner.is_file():
                    yield folder, depth, match, inner
        elif depth < MAX_DEPTH and PLACE.search(path.name) and path.is_dir():
            yield from _files(path, depth + 1)


def _listed(folder: Path) -> list[Path]:
    with suppress(OSError):
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    return []


def kind_of(start: str, folder: Path) -> Kind:
    """Tell the set by the start of its file names, else by the innermost folder named after one; else MNIST."""
    for text in (start, *reversed(folder.absolute().parts[-3:])):
        text = text.lower()
        if "fashion" in text:
            return FASHION
        if "kmnist" in text or "kuzushiji" in text:
            return KMNIST
        if "emnist" in text:
            part = text.partition("emnist")[2]
            return next((kind for name, kind in PARTS_OF_EMNIST.items() if name in part), EMNIST)
        if "mnist" in text:
            break
    return MNIST


# ---- by their pixels ----


def upright(images: np.ndarray, labels: np.ndarray, kind: Kind, known: tuple[np.ndarray, np.ndarray]
            ) -> tuple[np.ndarray, Kind, bool]:
    """Turn images as MNIST's are; return (images, their set, whether they were turned). known: digits to compare with.

    The comparison overrules `kind`, which comes from a name; with too few digits to compare, the name counts.
    """
    ways = _likeness(images, labels, known)
    turned = kind.transposed
    if ways is not None and max(ways) > ALIKE:
        turned = ways[1] > ways[0]
        if labels.max() <= 9 and kind.shows != "digits":
            kind = MNIST
        if turned and not kind.transposed:
            kind = PARTS_OF_EMNIST["digits"]
    elif ways is not None and kind.shows == "digits":
        kind = UNKNOWN
    if kind is EMNIST and labels.max() <= 9:
        kind = PARTS_OF_EMNIST["digits"]
    return np.ascontiguousarray(images.transpose(0, 2, 1)) if turned else images, kind, turned


def _likeness(images: np.ndarray, labels: np.ndarray, known: tuple[np.ndarray, np.ndarray]
              ) -> tuple[float, float] | None:
    """Compare the digits among the images with known ones, as stored and transposed: correlations of the mean
    images of each digit, less the mean of these ten. None where there are fewer than ENOUGH, or not of all ten."""
    some = np.flatnonzero(labels <= 9)
    some = some[::max(1, len(some) // (10 * ENOUGH))]
    if len(some) < ENOUGH or np.bincount(labels[some], minlength=10).min() < ENOUGH // 100:
        return None
    theirs, ours = _digit_means(images[some], labels[some]), _digit_means(*known)
    return tuple(float(np.mean([np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(way, ours, strict=True)]))
                 for way in (theirs, theirs.transpose(0, 2, 1)))


def _digit_means(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    means = np.stack([images[labels == digit].mean(axis=0, dtype=np.float64) for digit in range(10)])
    return means - means.mean(axis=0) + 1e-9 * np.arange(28)  # never constant, which no correlation takes
