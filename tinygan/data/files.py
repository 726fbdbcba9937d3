"""Files: `reading` opens one from an unknown source, `whole_file` writes one completely or not at all.

Written bytes go to one fixed temporary name beside the target, which os.replace then renames in a single step: at any
moment and after any crash there is the old file or the new one, never half of either. The temporary name is fixed, so
a killed run leaves at most one such file and the next write replaces it. A link stays a link: the file that it names
is replaced, with the temporary one beside that.
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

from tinygan.errors import Refused, TinyganError

LEFT_BY_SYSTEMS = {".ds_store", ".localized", "icon\r", "thumbs.db", "ehthumbs.db", "desktop.ini", ".directory"}


@contextlib.contextmanager
def reading(path: str | os.PathLike, most: float, *, hint: str = "", damage: tuple[type[Exception], ...] = (),
            may_be_empty: bool = False) -> Iterator[BinaryIO]:
    """Open a file from an unknown source for binary reading; turn every fault into one line that names the file.

    Its kind and size are checked first: opening a pipe would wait for its other end. most: the bytes it may have.
    hint: what to name where there is no such file. damage: what the parser in the block raises for damaged bytes.
    may_be_empty: whether a file without a byte is one to read.
    Raises TinyganError where the file is absent, no file, empty, too large, not readable, or where the block raises
    `Refused`, OSError or one of `damage`.
    """
    name, hint, opened = shown(path), hint and f": {hint}", False
    try:
        info = os.stat(path)
        if not stat.S_ISREG(info.st_mode):
            raise Refused(f"it is {'a folder, ' if stat.S_ISDIR(info.st_mode) else ''}not a file{hint}")
        if not info.st_size and not may_be_empty:
            raise Refused("it is empty; use another copy")
        if info.st_size > most:
            raise Refused(f"it has {info.st_size:,} bytes, more than the {most:,} such a file may have; "
                          "use another copy")
        with open(path, "rb") as file:
            opened = True
            yield file
    except Refused as error:
        raise TinyganError(f"cannot use {name}: {error}") from None
    except FileNotFoundError:
        raise TinyganError(f"no file {name}{hint}") from None
    except (OSError, ValueError, *damage) as error:  # ValueError of the system: a zero byte in the name
        if opened and not isinstance(error, (OSError, *damage)):
            raise
        reason = reason_of(error)
        if isinstance(error, PermissionError):
            reason += "; ask its owner for access"
        elif opened:
            reason = f"it is cut off, damaged or was made by another program; use another copy ({reason})"
        else:
            reason += hint
        raise TinyganError(f"cannot read {name}: {reason}") from None


def reason_of(error: BaseException) -> str:
    """Return the reason that an exception gives, on one line of at most 120 characters."""
    return " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())[:120]


def shown(path: str | os.PathLike) -> str:
    """Return the path as printable text on one line, whatever bytes its name holds."""
    text = os.fsdecode(path).encode("utf-8", "backslashreplace").decode()
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@contextlib.contextmanager
def whole_file(path: str | os.PathLike, *, durable: bool = False) -> Iterator[BinaryIO]:
    """Open `path` for binary writing; the file changes only when the block ends without an error.

    durable: also wait until the bytes, and the folder's entry for them, are on the disk (fsync), so that a power cut
    loses nothing either; used for checkpoints, not for pictures. What is no file (a pipe, /dev/stdout) is written
    into directly. Raises OSError as the system gives it; the previous file is then unchanged and the temporary one is
    removed.
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
    """Rename the file at `path` to the first free name of NAME-kept-1.EXT, NAME-kept-2.EXT ...; return the new path.

    Of a link the file that it names is renamed, and the link stays. Raises OSError as the system gives it.
    """
    path, number = Path(os.path.realpath(path)), 1
    while os.path.lexists(kept := path.with_name(f"{path.stem}-kept-{number}{path.suffix}")):
        number += 1
    os.rename(path, kept)
    return kept


def is_systems(name: str) -> bool:
    """Tell whether file managers leave a file of this name in folders; a folder with no other file counts as empty."""
    return name.lower() in LEFT_BY_SYSTEMS or name.startswith("._")


def hash_arrays(*arrays: np.ndarray) -> str:
    """Compute a hash of the bytes, dtypes and shapes of arrays: 32 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=16)
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()


def _is_stream(path: str | os.PathLike) -> bool:
    """Tell whether `path` is neither file nor folder: a pipe or device must never be replaced by a file."""
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
