"""Archives of the audit trail for tests, written by hand from their description: what machserial does is not used."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

EVENT_COLUMNS = (
    *("id", "event_type", "event_source", "serial_id", "serial_number", "part_id", "site_id", "performed_by"),
    *("db_user", "performed_at", "reason", "details", "transaction_id"),
)
SEAL_COLUMNS = (
    *("id", "incarnation", "begins_after_id", "system_identifier", "timeline", "month", "event_count"),
    *("first_event_id", "last_event_id", "up_to_transaction_id", "up_to_event_id", "horizon", "next_transaction_id"),
    *("oldest_transaction_at", "last_given_id", "not_before", "merkle_root", "previous_hash", "sealed_at", "sealed_by"),
    "seal_hash",
)


def sha256(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def naive_root(leaves: list[bytes]) -> bytes:
    """Root over leaf hashes, word by word as RFC 6962, section 2.1, defines it."""
    if not leaves:
        return sha256(b"")
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return sha256(b"\x01" + naive_root(leaves[:k]) + naive_root(leaves[k:]))


def value(name: str, content: object) -> str:
    """As it enters the canonical form."""
    if name.endswith("_at") or name == "not_before":
        at = datetime.fromisoformat(content.replace("Z", "+00:00"))
        return str(int(at.timestamp()) * 1_000_000 + at.microsecond)
    return str(content)


def canonical(kind: str, row: dict[str, object]) -> bytes:
    given = [(name, value(name, content).encode()) for name, content in row.items() if content is not None]
    lines = [name.encode() + b"=" + str(len(content)).encode() + b":" + content + b"\n" for name, content in given]
    return f"machserial.{kind}.1\n".encode() + b"".join(lines)


def leaf(event: dict[str, object]) -> bytes:
    return sha256(b"\x00" + canonical("event", event))


def an_event(id: int, **columns: object) -> dict[str, object]:
    """An event of November 2025; some of its columns are null."""
    event = {
        "id": id,
        "event_type": "SERIAL_GENERATED",
        "event_source": "mes",
        "serial_number": f"SN-{id}",
        "performed_by": "ada",
        "db_user": "mes",
        "performed_at": f"2025-11-03T10:00:{id % 60:02}.{id:06}Z",
        "transaction_id": 700 + id // 3,
        **columns,
    }
    return {name: event.get(name) for name in EVENT_COLUMNS}


def line(columns: tuple[str, ...], row: dict[str, object]) -> str:
    cells = ("" if row[name] is None else '"' + str(row[name]).replace('"', '""') + '"' for name in columns)
    return ",".join(cells) + "\n"


@dataclass
class ArchiveOnDisk:
    """An archive as rows, and the files that write() makes of them; in between a test may tamper with the rows.

    events: each with its seal_id. seals: the chain.
    """

    folder: Path
    month: str = "2025-11"
    events: list[dict[str, object]] = field(default_factory=list)
    seals: list[dict[str, object]] = field(default_factory=list)
    manifest: dict[str, object] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        return self.folder / f"audit_{self.month.replace('-', '_')}.json"

    @property
    def anchor(self) -> str:
        return f"{self.seals[-1]['id']}:{self.seals[-1]['seal_hash']}"

    def file(self, content: str) -> Path:
        return self.folder / f"audit_{content}_{self.month.replace('-', '_')}.csv.gz"

    def add_seal(self, events: list[dict[str, object]], month: str | None = None, **columns: object) -> None:
        """A seal over events, which are in order. month: another one, whose events are not archived here."""
        first = self.seals[-1]["id"] + 1 if self.seals else 1
        seal = dict.fromkeys(SEAL_COLUMNS) | {
            "id": first,
            "incarnation": 1,
            "begins_after_id": 0,
            "system_identifier": 7400000000000000001,
            "timeline": 1,
            "event_count": len(events),
            "merkle_root": naive_root([leaf(event) for event in events]).hex(),
            "previous_hash": self.seals[-1]["seal_hash"] if self.seals else None,
            "sealed_at": "2025-12-01T00:00:00.000001Z",
            "sealed_by": "ada",
        }
        if events:
            seal |= {
                "month": f"{month or self.month}-01",
                "first_event_id": min(event["id"] for event in events),
                "last_event_id": max(event["id"] for event in events),
                "up_to_transaction_id": events[-1]["transaction_id"],
                "up_to_event_id": events[-1]["id"],
                "horizon": events[-1]["transaction_id"] + 1,
            }
        seal |= columns
        self.seals.append(seal)
        self.seal_again(seal)
        if month in (None, self.month):
            self.events += [{"seal_id": seal["id"], **event} for event in events]

    def seal_again(self, seal: dict[str, object]) -> None:
        seal["seal_hash"] = sha256(canonical("seal", {n: v for n, v in seal.items() if n != "seal_hash"})).hex()

    def write(self, leave_manifest: bool = False) -> ArchiveOnDisk:
        self.folder.mkdir(exist_ok=True)
        columns = {"events": ("seal_id", *EVENT_COLUMNS), "seals": SEAL_COLUMNS}
        for content, rows in (("events", self.events), ("seals", self.seals)):
            text = ",".join(columns[content]) + "\n" + "".join(line(columns[content], row) for row in rows)
            self.file(content).write_bytes(gzip.compress(text.encode(), mtime=0))
        if not leave_manifest:
            self.write_manifest()
        return self

    def write_manifest(self, **changes: object) -> None:
        own = [seal["id"] for seal in self.seals if seal["month"] == f"{self.month}-01"]
        roots = [sha256(b"\x00" + naive_root(self.leaves(seal_id))) for seal_id in own]
        self.manifest = {
            "version": 1,
            "month": self.month,
            "first_seal_id": own[0],
            "last_seal_id": own[-1],
            "event_count": len(self.events),
            "merkle_root": naive_root(roots).hex(),
            "files": [self.described(content, rows) for content, rows in self.contents()],
            **changes,
        }
        self.path.write_text(json.dumps(self.manifest))

    def leaves(self, seal_id: int) -> list[bytes]:
        own = [event for event in self.events if event["seal_id"] == seal_id]
        return [leaf({n: v for n, v in event.items() if n != "seal_id"}) for event in own]

    def contents(self) -> list[tuple[str, list]]:
        return [("events", self.events), ("seals", self.seals)]

    def described(self, content: str, rows: list) -> dict[str, object]:
        written = self.file(content).read_bytes()
        return {
            "name": self.file(content).name,
            "content": content,
            "sha256": sha256(written).hex(),
            "bytes": len(written),
            "rows": len(rows),
        }

    def rewrite(self, content: str, change: Callable[[bytes], bytes]) -> None:
        """Changes the text within a file, and makes the manifest agree with the file as such."""
        before = gzip.decompress(self.file(content).read_bytes())
        after = change(before)
        assert after != before
        self.file(content).write_bytes(gzip.compress(after, mtime=0))
        files = [self.described(name, rows) for name, rows in self.contents()]
        self.write_manifest(files=files)
