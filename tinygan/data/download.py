"""Downloads: one file from one of several mirrors, and the folder that downloads are kept in.

Bytes go to a file beside the target, with `.part` at the end of its name. Only when its checksum is right
is it renamed, in one step, to the target's name; so a file under that name is always complete. A mirror that refuses,
breaks off, is slow or sends other bytes is left for the next one. When all have failed, the error is one line with the
reason of each, an address of the file and the folder to put it in by hand.
"""

import hashlib
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, BinaryIO

from tinygan.data.files import shown
from tinygan.errors import TinyganError

SLOWEST = 2048  # bytes per second; below this a mirror counts as stuck (our choice)
CHUNK = 1 << 16


def cache_dir() -> Path:
    """Return the folder that downloads are kept in (it may not exist yet).

    The first of: $TINYGAN_HOME; $XDG_CACHE_HOME/tinygan; then the system's usual one: ~/Library/Caches/tinygan
    (macOS), %LOCALAPPDATA%/tinygan (Windows), ~/.cache/tinygan (elsewhere). A variable that is empty counts
    as not set. Raises TinyganError when the user has no home folder to fall back on.
    """
    try:
        if home := os.environ.get("TINYGAN_HOME"):
            return Path(home).expanduser().absolute()
        xdg = os.environ.get("XDG_CACHE_HOME", "")
        if os.path.isabs(xdg):  # the XDG rules say to ignore a relative one
            return Path(xdg) / "tinygan"
        if sys.platform == "darwin":
            return Path.home() / "Library" / "Caches" / "tinygan"
        if sys.platform == "win32":
            local = os.environ.get("LOCALAPPDATA")
            return (Path(local) if local else Path.home() / "AppData" / "Local") / "tinygan"
        return Path.home() / ".cache" / "tinygan"
    except RuntimeError:  # pathlib's answer when there is no home folder
        raise TinyganError("no home folder to keep downloads in: set TINYGAN_HOME to a folder") from None


def fetch(
    urls: Sequence[str],
    path: str | os.PathLike,
    md5: str,
    *,
    timeout: float = 5.0,
    progress: bool | None = None,
    max_bytes: int = 1 << 30,
    resume: bool = False,
    say: Callable[[str], None] = print,
) -> Path:
    """Download the file with checksum `md5` to `path`, unless it is there already; return the path.

    urls are tried in order, each once. timeout (seconds) bounds the wait for a mirror's answer, name look-up
    included, and every later pause; a mirror slower than 2 kB/s over that time is given up too. progress:
    True a bar (tqdm if it is installed, else lines), False nothing, None a bar on a terminal and one line
    elsewhere. resume: keep what has come of a file of exactly max_bytes, and continue there with the next of urls
    (one may be given several times) or in a later call. Raises TinyganError when no mirror gave the file or the
    folder cannot be written; its one line has the reason of each mirror, the address of the first, and the folder.
    """
    from http.client import HTTPException  # here, as below: slow to import and seldom used
    from urllib.parse import urlsplit

    path = Path(path)
    if _md5(path) == md5:
        return path
    part = path.with_name(path.name + ".part")
    failures: list[str] = []
    useless: set[str] = set()  # URLs that sent nothing: not tried again
    for url in urls:
        if resume and url in useless:
            continue
        host, have = urlsplit(url).netloc, _size(part) if resume else 0
        try:
            if progress is not False:  # before the request, since the answer may take long
                say(f"downloading {path.name} from {host}" + (f", going on at {have / 1e6:.1f} MB" if have else "")
                    + (f" ({failures[-1]})" if failures else ""))
            if have < max_bytes:
                _download(url, part, have, timeout=timeout, max_bytes=max_bytes,
                          meter=_Meter(path.name, progress, say))
            digest = _md5(part)  # of the file on the disk, not of what was meant to be written
            if digest != md5:
                part.unlink(missing_ok=True)
                raise _Unusable(f"sent other bytes: md5 {digest}")
            _rename(part, path)
            return path
        except (OSError, HTTPException, ValueError, _Unusable) as error:
            failures.append(f"{host} ({_reason(error, timeout)})")
            if not have and not _size(part):
                useless.add(url)
        finally:
            if not resume:
                with suppress(OSError):
                    part.unlink(missing_ok=True)
        if _md5(path) == md5:  # another process was downloading it too, and was first
            return path
    raise _not_downloaded(urls, path, failures[-1:] if resume else failures, goes_on=resume and _size(part) > 0)


def _not_downloaded(urls: Sequence[str], path: Path, failures: Sequence[str], goes_on: bool) -> TinyganError:
    """Make the error for a file that no mirror gave: why, and how to go on by hand. goes_on: a next call resumes."""
    again = "try again to go on, or " if goes_on else ""
    return TinyganError(f"could not download {path.name}: {', '.join(failures) or 'no mirror given'}; "
                        f"{again}get {urls[0] if urls else 'it'} by hand and put it in {shown(path.parent)}")


class _Unusable(Exception):
    """A mirror's answer cannot be used; the text is the reason."""


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _download(url: str, part: Path, have: int, *, timeout: float, max_bytes: int, meter: "_Meter") -> None:
    """Write what `url` sends to `part`, after the `have` bytes in it where the server can send a rest."""
    with closing(_open(url, timeout, have)) as answer:
        if answer.status != 206 or not answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            have = 0
        length = answer.headers.get("Content-Length", "")
        total = have + int(length) if length.isdecimal() else None
        if total is not None and total > max_bytes:
            raise _Unusable(f"offers {total:,} bytes where at most {max_bytes:,} are expected")
        received, window_bytes, window_start = have, 0, time.monotonic()
        with _writable(part, "ab" if have else "wb") as out, closing(meter.start(total)):
            meter.update(have)
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


def _open(url: str, seconds: float, have: int = 0) -> Any:
    """Open a URL, from byte `have` on, with one limit on the time until the first byte of the answer.

    urlopen's own timeout starts anew for each address of a host and leaves out the name look-up: without a
    network that can add up to a minute. So it runs in a separate thread, which is abandoned after `seconds`.
    """
    from urllib.request import Request, urlopen

    headers = {"User-Agent": "tinygan", **({"Range": f"bytes={have}-"} if have else {})}
    answers: queue.SimpleQueue = queue.SimpleQueue()
    given_up = threading.Event()

    def request() -> None:
        try:
            answer = urlopen(Request(url, headers=headers), timeout=seconds)
        except Exception as error:
            answers.put(error)
            return
        if given_up.is_set():
            answer.close()
        answers.put(answer)

    threading.Thread(target=request, daemon=True).start()
    try:
        answer = answers.get(timeout=seconds)
    except queue.Empty:
        given_up.set()
        raise TimeoutError from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _writable(part: Path, mode: str) -> BinaryIO:
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        return open(part, mode, buffering=0)  # an older, half-written one is overwritten
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
    from urllib.error import HTTPError, URLError

    if isinstance(error, HTTPError):
        error.close()
        return f"HTTP {error.code}"
    if isinstance(error, URLError) and isinstance(error.reason, Exception):
        error = error.reason
    if isinstance(error, TimeoutError):
        return f"no answer within {timeout:g} s"
    return " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__


def _md5(path: Path) -> str | None:
    """Compute the file's MD5 in hexadecimal; None when there is no such file.

    MD5 is the checksum published for these files: it detects damage and mix-ups, not forgery.
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
    """The progress of one download: a tqdm bar, or a line at every quarter, or nothing (see `fetch`)."""

    def __init__(self, name: str, progress: bool | None, say: Callable[[str], None]) -> None:
        self.name, self.say = name, say
        self.follow = bool(sys.stderr and sys.stderr.isatty()) if progress is None else progress
        self.bar = None
        self.total: int | None = None
        self.received = 0

    def start(self, total: int | None) -> "_Meter":
        """Begin a download of `total` bytes, None where the number is unknown; return self."""
        self.total = total
        if self.follow:
            with suppress(ImportError):
                from tqdm import tqdm

                self.bar = tqdm(total=total, unit="B", unit_scale=True, desc=self.name, leave=False)
        return self

    def update(self, count: int) -> None:
        """Count bytes that have come."""
        before, self.received = self.received, self.received + count
        if self.bar is not None:
            self.bar.update(count)
        elif self.follow and self.total:
            quarter = 4 * self.received // self.total
            if quarter > 4 * before // self.total:
                self.say(f"  {self.name}: {25 * quarter} % of {self.total / 1e6:.1f} MB")

    def close(self) -> None:
        """Remove the bar."""
        if self.bar is not None:
            self.bar.close()
