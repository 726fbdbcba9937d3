"""What the tests of train_gpan.py share: the smallest nets that paint, and pictures to paint on."""

from pathlib import Path

import numpy as np
from PIL import Image

TINY = ["--threads", "1", "--device", "cpu", "--base-channels", "1", "--patch-channels", "1", "--batch-size", "2",
        "--bank", "2", "--noise-dim", "2", "--views", "1"]


def write_picture(path: Path, colour=(200, 40, 40), size=(70, 60)) -> Path:
    """An ellipse of one colour on white, with its lower left missing: its mirror image is another."""
    rows, columns = np.mgrid[:size[1], :size[0]]
    inside = ((rows - size[1] / 2) / (size[1] * 0.35)) ** 2 + ((columns - size[0] / 2) / (size[0] * 0.3)) ** 2 < 1
    inside &= (rows < size[1] * 0.6) | (columns > size[0] * 0.4)
    picture = np.where(inside[:, :, None], np.array(colour), 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)
    return path
