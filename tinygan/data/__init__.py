"""Data: the MNIST digits and how a training loop draws batches from them; the pictures that a GPAN makes images of.

    idx.py           the MNIST file format: bytes in, a checked array out
    mnist.py         where the four files are looked for, and what happens when they are nowhere
    sets.py          which of MNIST's relatives lies in a folder, and which way up its images are
    download.py      one file from one of several mirrors, never half-written; the folder that downloads are kept in
    images.py        one picture from a file that nobody vouches for; resizing it
    substrates.py    objects on white, from files, a folder or drawn on the spot, each with its mask
    shapes.py        the drawn shapes
    batches.py       uint8 digits -> float32 canvases; an endless shuffled order that can be saved and resumed
    bundled/         6,000 real digits for a machine that is offline; weights/make_bundled.py made them

This folder needs NumPy and the standard library alone, and knows nothing of tensors or networks.
"""

from tinygan.data.batches import Batches, to_canvas
from tinygan.data.download import cache_dir
from tinygan.data.idx import read_images, read_labels
from tinygan.data.mnist import Digits, load_mnist

__all__ = ["Batches", "Digits", "cache_dir", "load_mnist", "read_images", "read_labels", "to_canvas"]
