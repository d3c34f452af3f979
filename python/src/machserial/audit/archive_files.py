"""Files of archives: how they reach the disk, and what is required of them before the database relies on them."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from machserial import audit_verifier
from machserial.errors import ExpectedError

# How many problems of an archive are named when it is refused.
NAMED = 5


class Hashing:
    """A file that keeps the hash and the size of what is written to it."""

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()
        self._size = 0

    def write(self, content: bytes) -> int:
        self._sha256.update(content)
        self._size += len(content)
        return self._file.write(content)

    def flush(self) -> None:
        self._file.flush()

    def described(self, name: str, content: str, rows: int) -> dict[str, Any]:
        """As the manifest does."""
        return {
            "name": name,
            "content": content,
            "sha256": self._sha256.hexdigest(),
            "bytes": self._size,
            "rows": rows,
        }


def to_disk(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def require_sound(manifest: Path, sha256: str) -> None:
    if audit_verifier.sha256_of(manifest)[0] != sha256:
        raise unsound(str(manifest), "it is not the manifest that is on record")
    require_none(audit_verifier.Verification().problems([manifest]), str(manifest))


def require_none(problems: Iterator[audit_verifier.Problem], what: str) -> None:
    found = list(itertools.islice(problems, NAMED))
    if found:
        raise unsound(what, "; ".join(map(audit_verifier.line, found)))


def unsound(what: str, detail: str) -> ExpectedError:
    return ExpectedError(
        f"{what} is not what was sealed",
        detail=detail,
        remedy="find out why, with machserial audit verify --full; nothing was taken out of the database",
    )
