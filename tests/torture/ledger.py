"""What a writer was told, on disk before anything else happens: the one witness that does not depend on the server.

One file a writer, a line of JSON an entry, each synced to disk before the writer goes on:

    {"token": "3-17", "what": "intent", "verbs": […]}      it is about to begin
    {"token": "3-17", "what": "commit", "facts": […]}      it is about to ask for COMMIT; what it was told until then
    {"token": "3-17", "what": "acknowledged"}              COMMIT has returned
                             "rolled back", "refused", "lost" (the connection, before COMMIT): it is not there
                             "ambiguous": the connection was lost during COMMIT
                             "settled", with "committed": what the database said about it later

A fact is [kind, key, value]: from this transaction on, the thing of this kind with this key is so. Each thing belongs
to one writer, so its last committed fact is how it has to be found.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

# How an attempt has ended, when it is known not to be there.
NOT_DONE = ("rolled back", "refused", "lost")


@dataclass
class Attempt:
    """One transaction of a writer, as far as its ledger tells."""

    token: str
    verbs: list[str]
    # None until COMMIT was asked for.
    facts: list[list] | None = None
    requests: list[list] = field(default_factory=list)
    outcome: str = ""
    # Of an ambiguous one: what the database said later.
    committed: bool | None = None

    @property
    def is_acknowledged(self) -> bool:
        return self.outcome == "acknowledged"

    @property
    def may_be_there(self) -> bool:
        """Whether only the database can tell."""
        return self.facts is not None and self.outcome not in NOT_DONE


class Reader:
    """Reads a ledger, again and again from where it has got to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.position = 0
        self.attempts: dict[str, Attempt] = {}
        self.faults: list[str] = []

    def read_on(self) -> None:
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self.position)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self.position += len(line)
                self._take(json.loads(line))

    def _take(self, entry: dict) -> None:
        token, what = entry["token"], entry["what"]
        if what == "intent":
            self.attempts[token] = Attempt(token, entry["verbs"])
        elif what == "commit":
            self.attempts[token].facts = entry["facts"]
            self.attempts[token].requests = entry["requests"]
        elif what == "settled":
            self.attempts[token].committed = entry["committed"]
        else:
            self.attempts[token].outcome = what
        if "fault" in entry:
            self.faults.append(f"{token}: {entry['fault']}")

    def ended(self) -> Iterator[Attempt]:
        return iter(self.attempts.values())


class Ledger(Reader):
    """The same for the writer itself, who adds to it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.read_on()
        self.file = os.open(path, os.O_WRONLY | os.O_CREAT)
        # A writer that was killed may have left half a line.
        os.ftruncate(self.file, self.position)
        os.lseek(self.file, 0, os.SEEK_END)

    def note(self, token: str, what: str, **more: object) -> None:
        """On disk when it returns."""
        entry = {"token": token, "what": what, **more}
        line = json.dumps(entry).encode() + b"\n"
        os.write(self.file, line)
        os.fdatasync(self.file)
        self.position += len(line)
        self._take(entry)
