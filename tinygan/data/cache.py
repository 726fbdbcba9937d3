"""The folder that downloads are kept in: one place, chosen the way each system expects it."""

import os
import sys
from pathlib import Path

from tinygan.errors import TinyganError


def cache_dir() -> Path:
    """Return tinygan's cache folder (it may not exist yet).

    The first of: $TINYGAN_HOME; $XDG_CACHE_HOME/tinygan; then the system's habit: ~/Library/Caches/tinygan
    (macOS), %LOCALAPPDATA%/tinygan (Windows), ~/.cache/tinygan (elsewhere). A variable that is empty counts
    as not set. Raises TinyganError when the user has no home folder to fall back on.
    """
    try:
        if own := os.environ.get("TINYGAN_HOME"):
            return Path(own).expanduser().absolute()
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
