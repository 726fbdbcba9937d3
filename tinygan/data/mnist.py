"""MNIST: handwritten digits of 28x28 gray pixels (LeCun, Cortes, Burges), 60,000 to train, 10,000 to test.

`load_mnist` searches the folders that a user may have named, then the cache folder, then downloads the files;
offline it takes a small set of real digits that comes with the package, and prints so. A --data-dir that was given
is never passed over, and no file is read without checking it (idx.py).
"""

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tinygan.data.download import cache_dir, fetch
from tinygan.data.files import hash_arrays, shown
from tinygan.data.idx import read_images, read_labels
from tinygan.data.sets import UNKNOWN, PairOfFiles, describe, find_set, missing, upright
from tinygan.errors import TinyganError, UsageError

# The makers' site answers 403 to programs; these two serve the same files.
MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
# (images, labels) of each split: name on the mirrors without .gz, md5 of the .gz
FILES = {
    "train": (
        ("train-images-idx3-ubyte", "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
        ("train-labels-idx1-ubyte", "d53e105ee54ea40749a09fcbcd1e9432"),
    ),
    "test": (
        ("t10k-images-idx3-ubyte", "9fb629c4189551a2d022fa330f9573f3"),
        ("t10k-labels-idx1-ubyte", "ec29112dd5afa0611ce80d1b7f02629c"),
    ),
}
LARGEST = 20_000_000  # bytes; the largest of the four is 9.9 MB
BUNDLED = Path(__file__).parent / "bundled"

# cache folder -> why its download failed: tried once per process, since offline each try can cost seconds
_failed_downloads: dict[Path, str] = {}


@dataclass(frozen=True, eq=False)
class Digits:
    """A set of digits with its labels.

    images: uint8 (N, 28, 28), 0 black to 255 white. labels: uint8 (N,), 0 to 9 where the images are digits. source:
    where they come from, one line. kind: the name of the set. shows: "digits", or in one word what else the images
    show, which a digit classifier cannot classify.
    """

    images: np.ndarray
    labels: np.ndarray
    source: str
    kind: str = "MNIST"
    shows: str = "digits"

    def __len__(self) -> int:
        return len(self.images)

    @functools.cached_property
    def hash(self) -> str:
        """Compute a hash of pixels and labels, the same wherever the files lie."""
        return hash_arrays(self.images, self.labels)


def load_mnist(
    split: str = "train",
    *,
    data_dir: str | os.PathLike | None = None,
    download: bool = True,
    allow_bundled: bool = True,
    other_sets: bool = False,
    say: Callable[[str], None] = print,
) -> Digits:
    """Load one split of MNIST, "train" or "test", from the first of these places that has its two files.

    1. data_dir, when given: there or nowhere
    2. the folder named by $TINYGAN_DATA
    3. the cache folder's mnist/ (see `cache_dir`)
    4. with download: two public mirrors; what comes is kept in the cache folder
    5. with allow_bundled: the bundled set, the first 500 digits of each class of the original training files and
       the first 100 of each class of the test files

    In 1 to 3 the files may lie in the folder itself or in one below it, plain or gzipped, under the names that MNIST
    and its relatives come by (see sets.py); EMNIST's images are turned upright. `say` gets one line for each download
    and for the bundled set. Raises UsageError for another split, TinyganError when the files are missing, damaged or
    not MNIST's shape, are of several sets, or, unless other_sets, of one that shows no digits.
    """
    if split not in FILES:
        raise UsageError(f"MNIST has the splits train and test, not {split!r}")
    if data_dir is not None:
        return _checked(_read_pair(split, _find_named(split, data_dir)), other_sets)

    if named := os.environ.get("TINYGAN_DATA"):
        if pair := find_set(split, named):
            return _checked(_read_pair(split, pair), other_sets)
        say(f"TINYGAN_DATA: no MNIST {split} files in {shown(named)}; looking elsewhere")

    folder = cache_dir() / "mnist"
    reason = "none found on this machine"
    if pair := find_set(split, folder):
        try:
            return _read_pair(split, pair)
        except TinyganError as error:  # in the cache a good download replaces the file
            reason = str(error)
            if download:
                say(f"{reason}; downloading it")
    if download:
        try:
            _download(split, folder, say)
            return _read_pair(split, _find_named(split, folder))
        except TinyganError as error:
            reason = str(error)
    if not allow_bundled:
        raise TinyganError(f"no MNIST {split} set: {reason}; name a folder that has it with --data-dir")

    digits = _read_pair(split, _find_named(split, BUNDLED))
    full = {"train": "60,000 training", "test": "10,000 test"}[split]
    source = f"the bundled set: {len(digits):,} of MNIST's {full} digits, shipped with tinygan"
    say(f"using {source} ({reason}). For all of them: go online, or name their folder with --data-dir")
    return Digits(digits.images, digits.labels, source)


def _find_named(split: str, folder: str | os.PathLike) -> PairOfFiles:
    """Find the set in a folder that must have one. Raises TinyganError naming what was searched for."""
    try:
        path = os.path.expanduser(os.fsdecode(folder))
    except TypeError:
        path = ""
    if not path:  # an empty one would mean the working folder, which was not named
        raise UsageError(f"the data folder has to be a path, not {folder!r}")
    if pair := find_set(split, path):
        return pair
    four = "MNIST is four files, " + ", ".join(f"{stem}.gz" for pair in FILES.values() for stem, _ in pair)
    if not os.path.isdir(path):
        raise TinyganError(f"{shown(path)} is a file: name the folder that it is in; {four}" if os.path.exists(path)
                           else f"there is no folder {shown(path)}: name the one that has the digits; {four}")
    absent, other = missing(split, Path(path))
    stems = [stem for stem, _ in FILES[split] if any(part in stem for part in absent)] or [FILES[split][0][0]]
    what = describe(Path(path)) if len(absent) == 2 else ""  # one of the two is there: name the one that is not
    what = what or "holds no " + " and no ".join(stems)
    raise TinyganError(
        f"{shown(path)} {what}: {four}, looked for there and in "
        f"mnist/, MNIST/raw/ and the like, with or without .gz, -idx or .idx{other}"
    )


def _download(split: str, folder: Path, say: Callable[[str], None]) -> None:
    if folder in _failed_downloads:
        raise TinyganError(_failed_downloads[folder])
    try:
        for stem, md5 in FILES[split]:
            urls = [f"{mirror}{stem}.gz" for mirror in MIRRORS]
            fetch(urls, folder / f"{stem}.gz", md5, max_bytes=LARGEST, say=say)
    except TinyganError as error:
        _failed_downloads[folder] = str(error)
        raise


def _read_pair(split: str, pair: PairOfFiles) -> Digits:
    images, labels = read_images(pair.images), read_labels(pair.labels, most=pair.kind.most)
    if images.shape[1:] != (28, 28):
        rows, columns = images.shape[1:]
        raise TinyganError(f"{shown(pair.images)}: images of {rows}x{columns} pixels, not 28x28")
    if len(images) != len(labels):
        counts = f"{len(images):,} images but {len(labels):,} labels"
        raise TinyganError(f"{counts}: {shown(pair.images)} and {shown(pair.labels)} do not belong together")
    images, kind, turned = upright(images, labels, pair.kind, _known_digits())
    what = f"{kind.shows}{', turned upright,' * turned}"
    return Digits(images, labels, f"{kind.name} {split}: {len(images):,} {what} from {shown(pair.place)}", kind.name,
                  kind.shows)


@functools.cache
def _known_digits() -> tuple[np.ndarray, np.ndarray]:
    """Read the bundled training digits, which others are compared with."""
    images, labels = (BUNDLED / f"{stem}.gz" for stem, _ in FILES["train"])
    return read_images(images), read_labels(labels)


def _checked(digits: Digits, other_sets: bool) -> Digits:
    if digits.shows not in ("digits", UNKNOWN.shows) and not other_sets:
        raise TinyganError(f"digits are needed here, and this is not what there is: {digits.source}; name a folder "
                           "with MNIST by --data-dir")
    return digits
