"""Files that the command makes: never through a link that somebody has planted, and for their owner alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from machserial.errors import ExpectedError


def create(path: Path) -> BinaryIO:
    """A new file with mode 0600 to write to. A file that an interrupted run has left is replaced; a link is refused."""
    if path.is_symlink():
        raise ExpectedError(
            f"{path} is a symbolic link",
            detail="what is written would go to where it points",
            remedy="find out who made it, and remove it or choose another folder",
        )
    path.unlink(missing_ok=True)
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb")
