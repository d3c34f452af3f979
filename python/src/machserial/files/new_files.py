"""Files that the command makes: never through a link that somebody has planted, and for their owner alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from machserial.errors import Exit, ExpectedError


def create(path: Path) -> BinaryIO:
    """A new file with mode 0600 to write to. A file that an interrupted run has left is replaced; a link is refused."""
    require_ordinary(path)
    path.unlink(missing_ok=True)
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb")


@contextmanager
def replacing(
    path: Path,
    *,
    mode: int = 0o600,
    partial: Path | None = None,
    code: Exit | int = Exit.USAGE,
    remedy: str = "name another file",
) -> Iterator[BinaryIO]:
    """A file to write to, which takes the place of path as a whole when the block has ended well, else not at all.

    partial: what it is called until then. code, remedy: of the ExpectedError if it cannot be written.
    """
    partial = partial or path.with_name(path.name + ".partial")
    try:
        require_ordinary(path)
        file = create(partial)
        try:
            with file:
                yield file
                os.fchmod(file.fileno(), mode)
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ExpectedError(f"{path} cannot be written", detail=error.strerror, remedy=remedy, code=code) from error


def require_ordinary(path: Path) -> None:
    """Refuses the name of a link, which would lead elsewhere, and of what is no file, such as /dev/null."""
    if path.is_symlink():
        raise ExpectedError(
            f"{path} is a symbolic link",
            detail="what is written would go to where it points",
            remedy="find out who made it, and remove it or choose another folder",
        )
    if path.exists() and not path.is_file():
        raise ExpectedError(f"{path} is no ordinary file", remedy="name a file; most results go to stdout without one")
