"""PostgreSQL's own programs: found, of the right version, and run so that no password is ever on a command line."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from machserial.errors import ExpectedError
from machserial.masking import masked

DEBIAN = Path("/usr/lib/postgresql")


def find(name: str, server_major: int, folder: Path | None) -> Path:
    """The program: in folder, else on PATH, else where Debian keeps it; at least of the server's major version."""
    seen = []
    for program in _candidates(name, folder):
        version = major_version(program)
        if version >= server_major:
            return program
        seen.append(f"{program} is of version {version}")
    raise ExpectedError(
        f"there is no {name} for a server of version {server_major}",
        detail="; ".join(seen) or f"{'not in ' + str(folder) if folder else 'not on PATH'}",
        remedy=f"install PostgreSQL's client programs of version {server_major}, or say where they are: --bin FOLDER",
    )


def _candidates(name: str, folder: Path | None) -> Iterator[Path]:
    if folder:
        yield from (path for path in [folder / name] if path.exists())
        return
    if on_path := shutil.which(name):
        yield Path(on_path)
    found = [path for path in DEBIAN.glob(f"*/bin/{name}") if path.parts[-3].isdigit()]
    yield from sorted(found, key=lambda path: int(path.parts[-3]), reverse=True)


def major_version(program: Path) -> int:
    try:
        said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise ExpectedError(f"{program} cannot be run", detail=str(error), remedy="name another one: --bin") from error
    found = re.search(r"\) (\d+)", said)
    if not found:
        raise ExpectedError(f"{program} does not tell its version", detail=said.strip(), remedy="name another: --bin")
    return int(found.group(1))


def environment() -> dict[str, str]:
    """In which they speak English, as failed() reads it, and leave the encoding of what they dump as it is."""
    ours = {name: value for name, value in os.environ.items() if name not in ("LC_ALL", "PGCLIENTENCODING")}
    if everything := os.environ.get("LC_ALL"):
        ours |= {"LANG": everything, "LC_CTYPE": everything}
    return ours | {"LC_MESSAGES": "C"}


def run(
    program: Path, *arguments: object, environment: dict[str, str] | None = None, into: BinaryIO | None = None
) -> str:
    """What the program prints, unless that goes into a file; ExpectedError with its last words if it fails."""
    result = subprocess.run(
        [str(program), *map(str, arguments)],
        env=environment, stdin=subprocess.DEVNULL, stdout=into or subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, errors="replace",
    )  # fmt: skip
    if result.returncode:
        raise failed(program, result.stderr)
    return result.stdout or ""


def failed(program: Path, said: str) -> ExpectedError:
    """said: to stderr. Its own words are in English, those of the server in any language."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    begin = next((number for number in reversed(range(len(lines))) if _reports_error(lines[number])), -1)
    remedy = "see what it says, mend it, and run this again"
    # PostgreSQL's hint names the setting in every language.
    if "max_locks_per_transaction" in said:
        remedy = (
            "raise max_locks_per_transaction, restart the server, and run this again; 'machserial health' says "
            "to how much (lock_table)"
        )
    return ExpectedError(
        f"{program.name} failed",
        detail=masked("; ".join(lines[begin:][:3])) or "it does not say why",
        remedy=remedy,
    )


def _reports_error(line: str) -> bool:
    """Of pg_dump and pg_restore: what they call an error. Of psql: the last line that says where in the script."""
    return ": error: " in line or line.startswith("psql:")
