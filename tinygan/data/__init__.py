"""Data: the MNIST digits and how a training loop draws batches from them; the pictures that a GPAN makes images of.

    idx.py           the MNIST file format: bytes in, a checked array out
    mnist.py         where the four files are searched for, and what replaces them
    sets.py          which of MNIST's relatives lies in a folder, and which way up its images are
    download.py      one file from one of several mirrors, never half-written; the folder that downloads are kept in
    images.py        one picture from a file of unknown origin; resizing it
    substrates.py    objects on white, from files, a folder or drawn on the spot, each with its mask
    shapes.py        the drawn shapes
    photos.py        a folder of pictures as squares of one size
    files.py         the one way to open a file whose origin is unknown
    hdf5.py          arrays and attributes of an HDF5 file, each checked before it is read
    batches.py       uint8 digits -> float32 canvases; an endless shuffled order that can be saved and resumed
    stacked.py       endless triples of digits, one in each colour channel
    answer_key.py    the checks of a weight file
    bundled/         6,000 real digits for a machine that is offline; weights/make_bundled.py made them

Nothing here uses tensors or networks. h5py and Pillow are imported where a file needs them.
"""

from tinygan.data.batches import Batches, to_canvas
from tinygan.data.download import cache_dir
from tinygan.data.idx import read_images, read_labels
from tinygan.data.mnist import Digits, load_mnist
from tinygan.data.photos import Photos, load_photos
from tinygan.data.stacked import StackedDigits
from tinygan.data.substrates import Substrates, condition, drawn_shapes, open_substrates

__all__ = ["Batches", "Digits", "Photos", "StackedDigits", "Substrates", "cache_dir", "condition", "drawn_shapes",
           "load_mnist", "load_photos", "open_substrates", "read_images", "read_labels", "to_canvas"]
