"""Load a classifier from its weight file, a digit net or a VGG16."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress

from tinygan.data.hdf5 import import_h5py, open_hdf5
from tinygan.errors import TinyganError
from tinygan.models.classifiers import digits
from tinygan.models.classifiers.base import Classifier
from tinygan.models.classifiers.vgg16 import MAX_BYTES, load_vgg16


def find_classifier(notify: Callable[[str], None] = print) -> digits.DigitNet | None:
    """Load the digit classifier that comes with the package.

    Returns None and passes one line with the reason to `notify` where the file or h5py is missing: a GAN trains
    without it. Raises TinyganError if the file is there and is not sound.
    """
    skipped = "classes drawn, KL and confidence are not measured"
    if not digits.SHIPPED.is_file():
        notify(f"note: there is no {digits.SHIPPED}, so {skipped}; {digits.REMEDY}")
        return None
    try:
        import_h5py()
    except TinyganError as error:
        notify(f"note: {error}; without it {skipped}")
        return None
    return digits.load()


def load_classifier(path: str | os.PathLike | None) -> Classifier:
    """Load the classifier in a weight file, a digit net or a VGG16; None: the digit classifier of the package.

    Raises TinyganError, one line that names the file, for anything else.
    """
    if path is None:
        return digits.load()
    kind = ""
    with suppress(TinyganError), open_hdf5(path, max_bytes=MAX_BYTES) as file:  # load_vgg16 reports what is wrong
        kind = file.attribute("format", "")
    return digits.load(path) if kind == digits.FORMAT else load_vgg16(path)
