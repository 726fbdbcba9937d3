"""Write a file whole or not at all; tell what is in files and folders from what only seems to be.

The bytes go to one fixed temporary name beside the target and move over it in a single step (os.replace):
whoever looks, at any moment and after any crash, finds the old file or the new one, never half of either. The
temporary name is fixed, so a run that is killed leaves at most one such file and the next write replaces it.
A link stays a link: the file that it names is replaced, with the temporary one beside that.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

LEFT_BY_SYSTEMS = {".ds_store", ".localized", "icon\r", "thumbs.db", "ehthumbs.db", "desktop.ini", ".directory"}


@contextlib.contextmanager
def whole_file(path: str | os.PathLike, *, durable: bool = False) -> Iterator[BinaryIO]:
    """Open `path` for binary writing; it changes only when the block ends without an error.

    durable: also wait until the bytes, and the folder's entry for them, are on the disk (fsync), so that a
    power cut loses nothing either. Checkpoints want this; pictures do not. What is no file (a pipe, /dev/stdout)
    is written into as it is. Raises OSError as the system gives it; the previous file is then untouched and the
    temporary one is gone.
    """
    if _is_stream(path):
        with open(path, "wb") as file:
            yield file
        return
    path = Path(os.path.realpath(path))
    temporary = path.with_name(path.name + ".tmp")
    # One left by a killed run is removed, not reopened: it may be a link to elsewhere.
    temporary.unlink(missing_ok=True)
    try:
        with open(temporary, "xb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    if durable:
        _sync_folder(path.parent)


def put_aside(path: str | os.PathLike) -> Path:
    """Rename the file at `path` to the first free of NAME-kept-1.EXT, NAME-kept-2.EXT ... beside it; return that.

    Of a link the file that it names is renamed, and the link stays. Raises OSError as the system gives it.
    """
    path, number = Path(os.path.realpath(path)), 1
    while os.path.lexists(kept := path.with_name(f"{path.stem}-kept-{number}{path.suffix}")):
        number += 1
    os.rename(path, kept)
    return kept


def is_systems(name: str) -> bool:
    """Whether a file of this name is what a file manager leaves in a folder that it has shown: one with nothing else is
    empty to its owner."""
    return name.lower() in LEFT_BY_SYSTEMS or name.startswith("._")


def hash_arrays(*arrays: np.ndarray) -> str:
    """Compute a hash of arrays, by which to tell whether others are the same: their bytes, types and shapes count."""
    digest = hashlib.blake2b(digest_size=16)
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()


def _is_stream(path: str | os.PathLike) -> bool:
    """Whether there is something at `path` that is neither file nor folder: it must never be replaced by a file."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _sync_folder(folder: Path) -> None:
    # Not every system can open or sync a folder (Windows cannot); the file's own bytes are safe all the same.
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
