"""Verifies archives of the audit trail, without a database: this file and Python are all that it takes.

    python3 audit_verifier.py MANIFEST… [--anchor ID:HASH]

Everything is computed anew from the archives' files, by this file alone: it shares no code with what wrote them.
An archive is a manifest (audit_2025_11.json), which names its files with their SHA-256:

- events: gzipped CSV, seal_id and the columns of an event. A value is quoted, null is empty without quotes.
- seals: the chain of seals from where the archive before ended to the month's last, in CSV of the same kind.

The hash of an event is SHA-256(0x00 || its canonical form). A Merkle tree of RFC 6962 over the events of a seal gives
the seal's merkle_root, SHA-256 of the seal's canonical form gives its seal_hash, and the next seal holds that as
previous_hash. So an anchor, which is id and hash of a seal and was kept elsewhere, proves all that was sealed before.
The merkle_root of an archive is that of a tree whose leaves are the roots of the seals.
The canonical form of an event: "machserial.event.1", and for each column that is not null a line

    name=length:value

where length counts bytes of UTF-8, and times are microseconds since 1970-01-01 00:00 UTC. That of a seal likewise.
"""

from __future__ import annotations

import argparse
import errno
import gzip
import hashlib
import json
import os
import re
import stat
import sys
import unicodedata
import zlib
from collections.abc import Iterable, Iterator
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

VERSION = 1

# What an archive is never larger than: beyond it nothing is read, so that a file cannot exhaust the reader's memory.
LONGEST_MANIFEST = 1 << 20
LONGEST_RECORD = 1 << 26  # an event or a seal, in bytes of CSV

EVENT_COLUMNS = (
    "id",
    "event_type",
    "event_source",
    "serial_id",
    "serial_number",
    "part_id",
    "site_id",
    "performed_by",
    "db_user",
    "performed_at",
    "reason",
    "details",
    "transaction_id",
)
SEAL_COLUMNS = (
    "id",
    "incarnation",
    "begins_after_id",
    "system_identifier",
    "timeline",
    "month",
    "event_count",
    "first_event_id",
    "last_event_id",
    "up_to_transaction_id",
    "up_to_event_id",
    "horizon",
    "next_transaction_id",
    "oldest_transaction_at",
    "last_given_id",
    "not_before",
    "merkle_root",
    "previous_hash",
    "sealed_at",
    "sealed_by",
    "seal_hash",
)
TIMES = ("performed_at", "oldest_transaction_at", "not_before", "sealed_at")

# What the manifest says, and of which type.
MANIFEST = {
    "version": int,
    "month": str,
    "first_seal_id": int,
    "last_seal_id": int,
    "event_count": int,
    "merkle_root": str,
    "files": list,
}
MANIFEST_FILE = {"name": str, "content": str, "sha256": str, "bytes": int, "rows": int}

# A quoted value, or nothing for null.
FIELD = rb'(?:"([^"]*(?:""[^"]*)*)")?'
TIME = re.compile(rb"(\d{4}-\d\d-\d\d)T([01]\d|2[0-3]):([0-5]\d):([0-5]\d)\.(\d{6})Z")
INTEGER = re.compile(rb"-?\d{1,19}")
MONTH = re.compile(r"\d{4}-(0[1-9]|1[0-2])")
ANCHOR = re.compile(r"(\d{1,19}):([0-9a-f]{64})", re.IGNORECASE)

EPOCH = date(1970, 1, 1).toordinal()

CsvRow = dict[str, "bytes | None"]


class Problem(NamedTuple):
    """Something that is not as it was sealed. seal_id and event_id: where, as far as it can be told."""

    seal_id: int | None
    problem: str
    event_id: int | None
    detail: str


class Damaged(Exception):
    """A file cannot be read to its end, so nothing can be said about the rest of it."""


# Hashes


def leaf_hash(content: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + content).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


class MerkleTree:
    """The root over leaf hashes that come one by one. Keeps no more than a hash for each power of two."""

    def __init__(self) -> None:
        self._subtrees: list[tuple[int, bytes]] = []  # how many leaves, and their root; the largest first

    def add(self, leaf: bytes) -> None:
        leaves, root = 1, leaf
        while self._subtrees and self._subtrees[-1][0] == leaves:
            root = node_hash(self._subtrees.pop()[1], root)
            leaves *= 2
        self._subtrees.append((leaves, root))

    def root(self) -> bytes:
        if not self._subtrees:
            return hashlib.sha256().digest()
        *larger, (_, root) = self._subtrees
        for _, left in reversed(larger):
            root = node_hash(left, root)
        return root


def canonical(first_line: bytes, row: CsvRow, columns: Iterable[str]) -> bytes:
    """The bytes that are hashed."""
    lines = [first_line, b"\n"]
    for name in columns:
        value = row[name]
        if value is not None:
            if name in TIMES:
                value = b"%d" % microseconds(value)
            lines.append(b"%s=%d:%s\n" % (name.encode(), len(value), value))
    return b"".join(lines)


def event_hash(event: CsvRow) -> bytes:
    return leaf_hash(canonical(b"machserial.event.1", event, EVENT_COLUMNS))


def seal_hash(seal: CsvRow) -> str:
    content = canonical(b"machserial.seal.1", seal, (name for name in SEAL_COLUMNS if name != "seal_hash"))
    return hashlib.sha256(content).hexdigest()


# Values


@lru_cache(maxsize=1000)
def days(written: bytes) -> int:
    """2025-11-03: days since 1970-01-01."""
    return date.fromisoformat(written.decode()).toordinal() - EPOCH


def microseconds(written: bytes) -> int:
    """2025-11-03T10:00:00.123456Z: microseconds since 1970-01-01 00:00 UTC."""
    found = TIME.fullmatch(written)
    try:
        day, hour, minute, second, fraction = found.groups()
        seconds = ((days(day) * 24 + int(hour)) * 60 + int(minute)) * 60 + int(second)
    except (AttributeError, ValueError):
        raise Damaged(f"{shown(written)} is not a time") from None
    return seconds * 1_000_000 + int(fraction)


def integer(written: bytes | None) -> int:
    if written is None or not INTEGER.fullmatch(written):
        raise Damaged(f"{shown(written)} is not a whole number")
    return int(written)


def text(written: bytes | None) -> str | None:
    return None if written is None else written.decode("utf-8", "replace")


def shown(written: bytes | None) -> str:
    return "null" if written is None else repr(text(written)[:100])


# Files


def records(lines: Iterable[bytes]) -> Iterator[bytes]:
    """A value may hold line breaks: a record ends with the line where every quote is closed."""
    parts: list[bytes] = []
    open_quote, size = False, 0
    for line in lines:
        parts.append(line)
        size = len(line) + (size if len(parts) > 1 else 0)
        if size > LONGEST_RECORD:
            raise Damaged(f"a row is longer than {LONGEST_RECORD} bytes")
        open_quote ^= bool(line.count(b'"') % 2)
        if not open_quote:
            yield b"".join(parts) if len(parts) > 1 else line
            parts.clear()
    if parts:
        raise Damaged("it ends in the middle of a value")


def rows(file: Iterable[bytes], columns: tuple[str, ...]) -> Iterator[CsvRow]:
    """The rows of an archive's CSV. Unlike Python's csv this tells null from an empty text."""
    found = records(file)
    if next(found, b"") != ",".join(columns).encode() + b"\n":
        raise Damaged(f"its first line does not name the columns {', '.join(columns)}")
    pattern = re.compile(b",".join([FIELD] * len(columns)) + b"\n")
    for number, record in enumerate(found, start=1):
        row = pattern.fullmatch(record)
        if not row:
            raise Damaged(f"row {number} does not consist of {len(columns)} quoted values")
        values = row.groups()
        if b'""' in record:
            values = [value and value.replace(b'""', b'"') for value in values]
        yield dict(zip(columns, values, strict=True))


def open_file(path: Path) -> BinaryIO:
    """Only an ordinary file: another kind would wait for its writer, or never end."""
    file = os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is not an ordinary file")
    return file


def lines_of(file: BinaryIO) -> Iterator[bytes]:
    """Lines as they are, but one that is too long in part only."""
    return iter(lambda: file.readline(LONGEST_RECORD + 1), b"")


def read_csv(path: Path, columns: tuple[str, ...]) -> Iterator[CsvRow]:
    """The rows of a gzipped file. Raises Damaged, which names the file."""
    try:
        with open_file(path) as zipped, gzip.open(zipped, "rb") as file:
            yield from rows(lines_of(file), columns)
    except (Damaged, OSError, EOFError, zlib.error) as error:
        raise Damaged(f"{path.name}: {error}") from error


def read_events(path: Path) -> Iterator[CsvRow]:
    return read_csv(path, ("seal_id", *EVENT_COLUMNS))


def read_seals(path: Path) -> Iterator[CsvRow]:
    return read_csv(path, SEAL_COLUMNS)


def sha256_of(path: Path) -> tuple[str, int]:
    """Hash and size of a file."""
    digest, size = hashlib.sha256(), 0
    with open_file(path) as file:
        while block := file.read(1 << 20):
            digest.update(block)
            size += len(block)
    return digest.hexdigest(), size


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest, with all that it must say. Raises Damaged."""
    try:
        with open_file(path) as file:
            written = file.read(LONGEST_MANIFEST + 1)
        if len(written) > LONGEST_MANIFEST:
            raise Damaged(f"it is longer than {LONGEST_MANIFEST} bytes")
        manifest = json.loads(written)
    except (OSError, ValueError, RecursionError) as error:
        raise Damaged(str(error)) from error
    require(manifest, MANIFEST)
    for file in manifest["files"]:
        require(file, MANIFEST_FILE)
        if file["name"] in ("", ".", "..") or re.search(r"[/\\\0]", file["name"]):
            raise Damaged(f"{file['name']!r} is not a file beside it")
    contents = [file["content"] for file in manifest["files"]]
    if contents.count("events") != 1 or contents.count("seals") != 1:
        raise Damaged("it does not name one file of events and one of seals")
    if manifest["version"] != VERSION:
        raise Damaged(f"it is of version {manifest['version']}; this verifier knows version {VERSION}")
    if not MONTH.fullmatch(manifest["month"]):
        raise Damaged(f"{manifest['month']!r} is not a month")
    return manifest


def require(found: object, fields: dict[str, type]) -> None:
    for name, kind in fields.items():
        if not isinstance(found, dict) or type(found.get(name)) is not kind:
            raise Damaged(f"it does not say {name}")


def manifests_in(folder: Path) -> list[Path]:
    """Manifests of a folder, by month and number."""
    found = [path for path in folder.iterdir() if re.fullmatch(r"audit_\d{4}_\d\d(_\d+)?\.json", path.name)]
    return sorted(found, key=lambda path: [int(number) for number in re.findall(r"\d+", path.name)])


# Verification


class Archive:
    """What a manifest says, and where its files are. suffix: of their names, for those that are not published yet."""

    def __init__(self, manifest: dict[str, Any], folder: Path, suffix: str = "") -> None:
        self.manifest = manifest
        self.folder = folder
        self.suffix = suffix
        self.first_day = f"{manifest['month']}-01".encode()

    def path(self, name: str) -> Path:
        return self.folder / (name + self.suffix)

    def file(self, content: str) -> dict[str, Any]:
        return next(file for file in self.manifest["files"] if file["content"] == content)

    def holds(self, seal: CsvRow) -> bool:
        """Whether the events of a seal of its month are here."""
        return True

    def events(self) -> Iterator[CsvRow]:
        return read_events(self.path(self.file("events")["name"]))

    def seals(self) -> Iterator[CsvRow]:
        return read_seals(self.path(self.file("seals")["name"]))


class Groups:
    """Events by their seal, in the order of the file, read once."""

    def __init__(self, events: Iterator[CsvRow]) -> None:
        self._events = events
        self._next = next(events, None)

    def seal_id(self) -> int | None:
        """Whose events come next; None at the end."""
        return integer(self._next["seal_id"]) if self._next else None

    def take(self) -> Iterator[CsvRow]:
        """The events that come next and are of one seal."""
        seal_id = self._next["seal_id"]
        while self._next and self._next["seal_id"] == seal_id:
            yield self._next
            self._next = next(self._events, None)


class Verification:
    """Verifies one archive after the other, and that their seals belong to one chain.

    anchor: 'ID:HASH' of a seal, which one of the archives must reach. Raises ValueError if it is none.
    is_whole: whether the archives are all that there are between the first and the last, so that a gap is a problem.
    archives, events: how many were verified.
    """

    def __init__(self, anchor: str | None = None, is_whole: bool = True) -> None:
        self._is_whole = is_whole
        self._stretches: list[tuple[int, int, str]] = []  # first and last seal of each archive, and its month
        # Hashes that seals must have: the anchor's, and that of the last seal of each archive before.
        self._known: dict[int, str] = {}
        self._anchor_id: int | None = None
        self._reaches_anchor = False
        self.archives = self.events = 0
        if anchor:
            found = ANCHOR.fullmatch(anchor.strip())
            if not found:
                raise ValueError(f"{anchor!r} is not an anchor: it has the form ID:HASH, with 64 hexadecimal digits")
            self._anchor_id = int(found[1])
            self._known[self._anchor_id] = found[2].lower()

    def problems(self, manifests: Iterable[Path]) -> Iterator[Problem]:
        """Of archives on disk, and of the anchor."""
        for path in manifests:
            try:
                archive = Archive(read_manifest(path), path.parent)
            except Damaged as damage:
                yield Problem(None, "MANIFEST_DAMAGED", None, f"{path.name}: {damage}")
            else:
                yield from self.archive_problems(archive)
        if self._is_whole:
            yield from self._gap_problems()
        yield from self.anchor_problems()

    def anchor_problems(self) -> Iterator[Problem]:
        """After all else."""
        if self._anchor_id is not None and not self._reaches_anchor:
            yield Problem(
                self._anchor_id, "ANCHOR_NOT_REACHED", None, "The seal that it names is in none of the archives."
            )

    def chain_problems(self, seals: Iterable[CsvRow]) -> Iterator[Problem]:
        """Of a chain from its first seal to its last, without events."""
        previous = None
        for seal in seals:
            yield from self._seal_problems(1, seal, previous)
            previous = seal

    def _gap_problems(self) -> Iterator[Problem]:
        """Of seals that no archive has, between two that are here: their events may be hidden."""
        reached, before = None, ""
        for first, last, month in sorted(self._stretches):
            if reached is not None and first > reached + 1:
                places = f"between the archives of {before} and {month}"
                detail = f"Seals {reached + 1} to {first - 1}, {places}, are in none."
                yield Problem(reached + 1, "ARCHIVE_MISSING", None, detail)
            if reached is None or last > reached:
                reached, before = last, month

    def seals(self) -> str:
        """The seals that were verified, for the reader: what lies outside of them nobody has looked at."""
        if not self._stretches:
            return "none"
        return f"{min(first for first, *_ in self._stretches)} to {max(last for _, last, _ in self._stretches)}"

    def archive_problems(self, archive: Archive) -> Iterator[Problem]:
        """Of one archive."""
        self.archives += 1
        missing = False
        for problem in file_problems(archive):
            missing |= problem.problem == "FILE_MISSING"
            yield problem
        if not missing:
            try:
                yield from self.content_problems(archive)
            except Damaged as damage:
                yield Problem(None, "FILE_DAMAGED", None, f"archive of {archive.manifest['month']}: {damage}")

    def content_problems(self, archive: Archive) -> Iterator[Problem]:
        """Events, seals and manifest against each other. In memory is one event and one seal at a time."""
        events, tree = Groups(archive.events()), MerkleTree()
        said = self.events
        seals = 0
        first = previous = first_own = None
        for seal in archive.seals():
            seals += 1
            first = first or integer(seal["id"])
            yield from self._seal_problems(archive.manifest["first_seal_id"], seal, previous)
            yield from unsealed_problems(events, integer(seal["id"]))
            if seal["month"] == archive.first_day:
                # The file's first, whether or not its events are looked at.
                first_own = first_own or integer(seal["id"])
                if archive.holds(seal):
                    yield from self._event_problems(archive, seal, events, tree)
            previous = seal
        yield from unsealed_problems(events, None)
        found = {
            "event_count": (archive.manifest["event_count"], self.events - said),
            "merkle_root": (archive.manifest["merkle_root"], tree.root().hex()),
            "first_seal_id": (archive.manifest["first_seal_id"], first_own),
            "last_seal_id": (archive.manifest["last_seal_id"], previous and integer(previous["id"])),
            "rows of events": (archive.file("events")["rows"], self.events - said),
            "rows of seals": (archive.file("seals")["rows"], seals),
        }
        for name, (stated, computed) in found.items():
            if stated != computed:
                detail = f"The {name} of {archive.manifest['month']} is {computed} by the files, not {stated}."
                yield Problem(None, "MANIFEST_DIFFERS", None, detail)
        if previous:
            self._known.setdefault(integer(previous["id"]), text(previous["seal_hash"]))
            self._stretches.append((first, integer(previous["id"]), archive.manifest["month"]))

    def _seal_problems(self, first_id: int, seal: CsvRow, previous: CsvRow | None) -> Iterator[Problem]:
        """Of the seal itself, and of how it goes on from the one before it."""
        seal_id = integer(seal["id"])
        if seal_hash(seal) != text(seal["seal_hash"]):
            yield Problem(seal_id, "SEAL_CHANGED", None, "Its seal_hash is not that of what it says.")
        # The file may begin earlier, where the archive before ended.
        due = integer(previous["id"]) + 1 if previous else min(seal_id, first_id)
        if seal_id != due:
            yield Problem(due, "SEAL_MISSING", None, f"Seal {seal_id} stands in its place.")
        elif previous and seal["previous_hash"] != previous["seal_hash"]:
            yield Problem(seal_id, "CHAIN_BROKEN", None, f"Its previous_hash is not that of seal {seal_id - 1}.")
        if seal_id == 1 and seal["previous_hash"] is not None:
            yield Problem(seal_id, "CHAIN_BROKEN", None, "It is the first, and yet it has a previous_hash.")
        yield from self._known_problems(seal_id, text(seal["seal_hash"]))
        if not previous and seal_id > 1:
            yield from self._known_problems(seal_id - 1, text(seal["previous_hash"]))

    def _known_problems(self, seal_id: int, found: str | None) -> Iterator[Problem]:
        """If another archive or the anchor tells the hash of this seal, it must be the same."""
        self._reaches_anchor |= seal_id == self._anchor_id
        if found != self._known.get(seal_id, found):
            known_by = "the anchor" if seal_id == self._anchor_id else "another archive"
            problem = "ANCHOR_MISMATCH" if seal_id == self._anchor_id else "CHAIN_BROKEN"
            yield Problem(seal_id, problem, None, f"Its hash is {found}, by {known_by} {self._known[seal_id]}.")

    def _event_problems(self, archive: Archive, seal: CsvRow, events: Groups, tree: MerkleTree) -> Iterator[Problem]:
        """Of the events of one seal, which are those that come next. Their root is added to tree."""
        seal_id = integer(seal["id"])
        own_tree = MerkleTree()
        count, least, greatest, position = 0, None, None, None
        for event in events.take() if events.seal_id() == seal_id else ():
            event_id = integer(event["id"])
            own_tree.add(event_hash(event))
            here = (integer(event["transaction_id"]), event_id)
            if position and here <= position:
                yield Problem(seal_id, "EVENT_OUT_OF_ORDER", event_id, f"It comes after event {position[1]}.")
            if not (event["performed_at"] or b"").startswith(archive.first_day[:8]):
                yield Problem(seal_id, "EVENT_OF_OTHER_MONTH", event_id, f"It is of {shown(event['performed_at'])}.")
            count += 1
            least = min(least or event_id, event_id)
            greatest = max(greatest or event_id, event_id)
            position = here
        self.events += count
        tree.add(leaf_hash(own_tree.root()))
        if count != integer(seal["event_count"]):
            detail = f"{count} events are here, {text(seal['event_count'])} were sealed."
            yield Problem(seal_id, "EVENT_COUNT_DIFFERS", None, detail)
        if own_tree.root().hex() != text(seal["merkle_root"]):
            yield Problem(seal_id, "EVENT_CHANGED", None, "Its events are not as they were sealed.")
        elif count:
            found = {
                "first_event_id": least,
                "last_event_id": greatest,
                "up_to_transaction_id": position[0],
                "up_to_event_id": position[1],
            }
            for name, computed in found.items():
                if integer(seal[name]) != computed:
                    detail = f"Its {name} is {text(seal[name])}, by its events {computed}."
                    yield Problem(seal_id, "SEAL_CHANGED", None, detail)


def file_problems(archive: Archive) -> Iterator[Problem]:
    """Of the files as such."""
    for file in archive.manifest["files"]:
        try:
            digest, size = sha256_of(archive.path(file["name"]))
        except OSError as error:
            yield Problem(None, "FILE_MISSING", None, f"{file['name']}: {error.strerror}")
            continue
        if size != file["bytes"]:
            yield Problem(None, "FILE_CHANGED", None, f"{file['name']}: {size} bytes instead of {file['bytes']}.")
        elif digest != file["sha256"]:
            yield Problem(None, "FILE_CHANGED", None, f"{file['name']}: its SHA-256 is not that of the manifest.")


def unsealed_problems(events: Groups, up_to: int | None) -> Iterator[Problem]:
    """Of events that come next and are of no seal that could still come. up_to: the next seal; None: there is none."""
    while (seal_id := events.seal_id()) is not None and (up_to is None or seal_id < up_to):
        for event in events.take():
            yield Problem(seal_id, "EVENT_INSERTED", integer(event["id"]), "Its seal is not here, or stands before.")


# On its own


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Verify archives of machserial's audit trail, without a database.")
    parser.add_argument("manifests", metavar="MANIFEST", nargs="+", type=Path, help="an audit_….json, or their folder")
    parser.add_argument("--anchor", metavar="ID:HASH", help="a seal that was noted elsewhere and must be reached")
    given = parser.parse_args(arguments)
    try:
        verification = Verification(given.anchor)
        paths = [path for place in given.manifests for path in (manifests_in(place) if place.is_dir() else [place])]
    except (ValueError, OSError) as error:
        parser.error(str(error))
    if not paths:
        parser.error("there is no manifest")
    is_intact = True
    for problem in verification.problems(paths):
        is_intact = False
        print(visible(line(problem)))
    if is_intact:
        seen = f"archives: {verification.archives}, events: {verification.events}, seals: {verification.seals()}"
        print(f"intact: {seen}")
    return 0 if is_intact else 1


def line(problem: Problem) -> str:
    places = (("seal", problem.seal_id), ("event", problem.event_id))
    return ": ".join([problem.problem, *(f"{kind} {id}" for kind, id in places if id is not None), problem.detail])


def visible(written: str) -> str:
    """Without what a terminal obeys or hides: names and values come from whoever wrote the files."""
    hidden = ("Cc", "Cf", "Cs", "Zl", "Zp")
    return "".join(json.dumps(one)[1:-1] if unicodedata.category(one) in hidden else one for one in written)


if __name__ == "__main__":
    sys.exit(main())
