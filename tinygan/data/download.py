"""One file from one of several mirrors, so that a failed download is never worse than none.

Bytes go to a file beside the wanted one, with `.part` at the end of its name. Only when its checksum is right
is it renamed, in one step, to the wanted name; so a file under that name is always whole, whatever broke off
on the way. A mirror that refuses, breaks off, dawdles or sends something else is left for the next one. The
last word, when all have failed, is one line that says what each did and where to put the file by hand.
"""

import hashlib
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from tinygan.errors import TinyganError
from tinygan.files import shown

SLOWEST = 2048  # bytes per second; below this a mirror counts as stuck (our choice)
CHUNK = 1 << 16


def fetch(
    urls: Sequence[str],
    path: str | os.PathLike,
    md5: str,
    *,
    timeout: float = 5.0,
    progress: bool | None = None,
    max_bytes: int = 1 << 30,
    say: Callable[[str], None] = print,
) -> Path:
    """Make sure that `path` holds the file with checksum `md5`; return it.

    urls are tried in order, each once. timeout (seconds) bounds the wait for a mirror's answer, names looked
    up and all, and every later pause; a mirror slower than 2 kB/s over that time is given up too. progress:
    True a bar (tqdm if it is installed, else lines), False nothing, None a bar on a terminal and one line
    elsewhere. A file already there with the right checksum is left alone and nothing is asked of the network.
    Raises TinyganError when no mirror gave the file or the folder cannot be written.
    """
    path = Path(path)
    if _md5(path) == md5:
        return path
    part = path.with_name(path.name + ".part")
    failures = []
    for url in urls:
        host = urlsplit(url).netloc
        try:
            if progress is not False:  # said before asking, since an answer may be long in coming
                say(f"downloading {path.name} from {host}" + (f" ({failures[-1]})" if failures else ""))
            _download(url, part, timeout=timeout, max_bytes=max_bytes, meter=_Meter(path.name, progress, say))
            found = _md5(part)  # of the file as it lies on the disk, not of what was meant to be written
            if found != md5:
                raise _Unusable(f"sent other bytes: md5 {found}")
            _rename(part, path)
            return path
        except (OSError, HTTPException, ValueError, _Unusable) as error:
            failures.append(f"{host} ({_reason(error, timeout)})")
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)
        if _md5(path) == md5:  # another process was downloading it too, and was first
            return path
    raise TinyganError(
        f"could not download {path.name}: {', '.join(failures) or 'no mirror given'}; "
        f"get it by hand and put it in {shown(path.parent)}"
    )


class _Unusable(Exception):
    """A mirror's answer that is no use."""


def _download(url: str, part: Path, *, timeout: float, max_bytes: int, meter: "_Meter") -> None:
    with closing(_open(url, timeout)) as answer:
        length = answer.headers.get("Content-Length", "")
        total = int(length) if length.isdecimal() else None
        if total is not None and total > max_bytes:
            raise _Unusable(f"offers {total:,} bytes where at most {max_bytes:,} are expected")
        received, window_bytes, window_start = 0, 0, time.monotonic()
        with _writable(part) as out, closing(meter.start(total)):
            while chunk := answer.read1(CHUNK):
                received += len(chunk)
                if received > max_bytes:
                    raise _Unusable(f"sends more than the {max_bytes:,} bytes expected")
                try:
                    rest = memoryview(chunk)
                    while rest:  # the file is unbuffered, so that a full disk shows here and not at closing
                        rest = rest[out.write(rest) :]
                except OSError as error:
                    raise _cannot_write(part, error) from None
                meter.update(len(chunk))
                # A pause ends in the socket's own timeout; a trickle never does, so its speed is watched.
                window_bytes += len(chunk)
                now = time.monotonic()
                if now - window_start >= timeout:
                    if window_bytes < SLOWEST * (now - window_start):
                        raise _Unusable(f"too slow: {window_bytes:,} bytes in {now - window_start:.0f} s")
                    window_bytes, window_start = 0, now
        if total is not None and received < total:
            raise _Unusable(f"broke off after {received:,} of {total:,} bytes")


def _open(url: str, seconds: float):
    """urlopen with one bound on everything before the first byte of the answer.

    urlopen's own timeout starts anew for each address of a host and leaves out the name look-up: without a
    network that can add up to a minute. So it runs in a thread of its own, and is left behind when the time
    is over.
    """
    answers: queue.SimpleQueue = queue.SimpleQueue()
    given_up = threading.Event()

    def ask() -> None:
        try:
            answer = urlopen(Request(url, headers={"User-Agent": "tinygan"}), timeout=seconds)
        except Exception as error:
            answers.put(error)
            return
        if given_up.is_set():
            answer.close()
        answers.put(answer)

    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=seconds)
    except queue.Empty:
        given_up.set()
        raise TimeoutError from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _writable(part: Path):
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        return open(part, "wb", buffering=0)  # an older, half-written one is overwritten
    except OSError as error:
        raise _cannot_write(part, error) from None


def _rename(part: Path, path: Path) -> None:
    try:
        os.replace(part, path)
    except FileNotFoundError:
        raise _Unusable("its .part file was taken away") from None  # by another process, see `fetch`
    except OSError as error:
        raise _cannot_write(path, error) from None


def _cannot_write(path: Path, error: OSError) -> TinyganError:
    return TinyganError(
        f"cannot write {shown(path)}: {error.strerror or error}; make room, or set TINYGAN_HOME elsewhere"
    )


def _reason(error: Exception, timeout: float) -> str:
    if isinstance(error, HTTPError):
        error.close()
        return f"HTTP {error.code}"
    if isinstance(error, URLError) and isinstance(error.reason, Exception):
        error = error.reason
    if isinstance(error, TimeoutError):
        return f"no answer within {timeout:g} s"
    return " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__


def _md5(path: Path) -> str | None:
    """The file's checksum in hexadecimal; None when there is no such file.

    MD5 is what the mirrors' users pin these files by: it tells damage and mix-ups, and is not meant to stop a
    forger.
    """
    digest = hashlib.md5(usedforsecurity=False)
    try:
        with open(path, "rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except OSError:
        return None
    return digest.hexdigest()


class _Meter:
    """Progress of one download: a tqdm bar, or a line at every quarter, or nothing (see `fetch`)."""

    def __init__(self, name: str, progress: bool | None, say: Callable[[str], None]) -> None:
        self.name, self.say = name, say
        self.follow = bool(sys.stderr and sys.stderr.isatty()) if progress is None else progress
        self.bar = None
        self.total: int | None = None
        self.received = 0

    def start(self, total: int | None) -> "_Meter":
        self.total = total
        if self.follow:
            with suppress(ImportError):
                from tqdm import tqdm

                self.bar = tqdm(total=total, unit="B", unit_scale=True, desc=self.name, leave=False)
        return self

    def update(self, count: int) -> None:
        before, self.received = self.received, self.received + count
        if self.bar is not None:
            self.bar.update(count)
        elif self.follow and self.total:
            quarter = 4 * self.received // self.total
            if quarter > 4 * before // self.total:
                self.say(f"  {self.name}: {25 * quarter} % of {self.total / 1e6:.1f} MB")

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
