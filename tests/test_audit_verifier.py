"""The verifier of archives, against RFC 6962 and against archives that were written by hand."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from archives import ArchiveOnDisk, an_event, canonical, leaf, naive_root, sha256
from hypothesis import given
from hypothesis import strategies as st
from machserial import audit_verifier
from machserial.audit_verifier import Damaged, MerkleTree, Problem, Verification, leaf_hash

# Leaves and roots of the tests of Certificate Transparency's own implementation.
LEAVES = [
    bytes.fromhex(leaf)
    for leaf in (*("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"),)
]
ROOTS = (
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)


def root(leaf_hashes: list[bytes]) -> bytes:
    tree = MerkleTree()
    for one in leaf_hashes:
        tree.add(one)
    return tree.root()


class TestMerkleTree:
    def test_no_leaves(self):
        assert root([]) == sha256(b"") == naive_root([])

    @pytest.mark.parametrize("size", range(1, 9))
    def test_roots_of_certificate_transparency(self, size):
        hashes = [leaf_hash(leaf) for leaf in LEAVES[:size]]
        assert root(hashes).hex() == ROOTS[size - 1] == naive_root(hashes).hex()

    @given(st.lists(st.binary(max_size=40), max_size=300))
    def test_any_tree_is_that_of_the_definition(self, leaves):
        hashes = [leaf_hash(leaf) for leaf in leaves]
        assert root(hashes) == naive_root(hashes)


values = st.none() | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


class TestCsv:
    @given(st.lists(st.tuples(values, values, values), max_size=20))
    def test_every_value_comes_back(self, table):
        columns = ("a", "b", "c")

        def cell(value: str | None) -> str:
            return "" if value is None else '"' + value.replace('"', '""') + '"'

        text = "a,b,c\n" + "".join(",".join(map(cell, row)) + "\n" for row in table)
        # As a file gives lines: they end with LF, whatever else Unicode knows as the end of a line.
        lines = [line + b"\n" for line in text.encode().split(b"\n")[:-1]]
        found = list(audit_verifier.rows(iter(lines), columns))
        assert found == [
            {name: value if value is None else value.encode() for name, value in zip(columns, row, strict=True)}
            for row in table
        ]

    @pytest.mark.parametrize(
        "text",
        [
            b"",
            b"a,b",
            b"b,a\n",
            b'a,b\n"1"\n',
            b'a,b\n"1","2","3"\n',
            b'a,b\n"1","2"',
            b'a,b\n"1","2\n',
            b'a,b\n1,"2"\n',
            b'a,b\n"1" ,"2"\n',
            b'a,b\n"1""2"\n',
            b'a,b\r\n"1","2"\r\n',
        ],
    )
    def test_what_is_not_of_this_kind(self, text):
        with pytest.raises(Damaged):
            list(audit_verifier.rows(iter(text.splitlines(keepends=True)), ("a", "b")))


class TestCanonicalForm:
    def test_an_event_in_full(self):
        event = an_event(12, reason="", details='{"a": "ä"}', part_id="a\nb=1:x")
        written = {name: None if v is None else str(v).encode() for name, v in event.items()}
        form = audit_verifier.canonical(b"machserial.event.1", written, audit_verifier.EVENT_COLUMNS)
        assert (
            form
            == (
                "machserial.event.1\nid=2:12\nevent_type=16:SERIAL_GENERATED\nevent_source=3:mes\nserial_number=5:SN-12\n"
                "part_id=7:a\nb=1:x\nperformed_by=3:ada\ndb_user=3:mes\nperformed_at=16:1762164012000012\nreason=0:\n"
                'details=11:{"a": "ä"}\ntransaction_id=3:704\n'
            ).encode()
        )
        assert form == canonical("event", event)
        assert audit_verifier.event_hash(written) == leaf(event)

    @pytest.mark.parametrize(
        ("written", "expected"),
        [
            (b"1970-01-01T00:00:00.000000Z", 0),
            (b"1969-12-31T23:59:59.999999Z", -1),
            (b"2000-02-29T12:34:56.789012Z", 951827696789012),
            (b"2099-12-31T23:59:59.999999Z", 4102444799999999),
        ],
    )
    def test_times(self, written, expected):
        assert audit_verifier.microseconds(written) == expected

    @pytest.mark.parametrize(
        "written",
        [
            b"",
            b"infinity",
            b"2025-02-29T00:00:00.000000Z",
            b"2025-11-03T24:00:00.000000Z",
            b"2025-11-03T10:00:60.000000Z",
            b"2025-11-03T10:00:00Z",
            b"2025-11-03 10:00:00.000000+00",
            b"2025-11-03T10:00:00.000000Z\n",
            b"\xff",
        ],
    )
    def test_what_is_no_time(self, written):
        with pytest.raises(Damaged):
            audit_verifier.microseconds(written)


HOSTILE = 'a "quoted", \n\r\n multi-line\t\\N \\. \u2028 漢字 🔩'


@pytest.fixture
def archive(tmp_path: Path) -> ArchiveOnDisk:
    """November 2025: seals 2, 3 and 5 of a chain of five, where seal 4 is of December."""
    archive = ArchiveOnDisk(tmp_path / "archive")
    archive.add_seal([])
    archive.add_seal([an_event(id) for id in range(1, 8)])
    archive.add_seal([an_event(9, reason="", details='{"a": "b"}'), an_event(8, transaction_id=710, reason=HOSTILE)])
    archive.add_seal([an_event(11, performed_at="2025-12-01T00:00:00.000000Z")], month="2025-12")
    archive.add_seal([an_event(10, transaction_id=720)])
    # The section of an archive begins with its own first seal.
    del archive.seals[0]
    return archive.write()


def problems(archive: ArchiveOnDisk, anchor: str | None = None) -> list[Problem]:
    return list(Verification(anchor).problems([archive.path]))


def names(found: list[Problem]) -> set[tuple[str, int | None, int | None]]:
    return {(problem.problem, problem.seal_id, problem.event_id) for problem in found}


class TestIntact:
    def test_an_archive(self, archive):
        verification = Verification(archive.anchor)
        assert list(verification.problems([archive.path])) == []
        assert (verification.archives, verification.events) == (1, 10)

    def test_an_anchor_within_before_or_at_the_end(self, archive):
        for seal in archive.seals:
            assert problems(archive, f"{seal['id']}:{seal['seal_hash'].upper()}") == []
        assert problems(archive, f"1:{archive.seals[0]['previous_hash']}") == []

    def test_events_without_any_end(self, archive):
        """Memory does not grow with the archive: the tree keeps a hash for each power of two."""
        tree = MerkleTree()
        for number in range(1 << 12):
            tree.add(number.to_bytes(32, "big"))
        tree.add(b"\0" * 32)
        assert len(tree._subtrees) == 2


class TestTampering:
    """With the files' hashes made to agree, so that only what they hold can tell."""

    def check(self, archive: ArchiveOnDisk, *expected: tuple[str, int | None, int | None]) -> list[Problem]:
        found = problems(archive)
        assert set(expected) <= names(found), found
        assert all(problem.detail for problem in found)
        return found

    def test_a_changed_value(self, archive):
        archive.rewrite("events", lambda text: text.replace(b'"SN-5"', b'"SN-6"'))
        found = self.check(archive, ("EVENT_CHANGED", 2, None))
        assert {problem.seal_id for problem in found} == {2, None}

    def test_null_is_not_empty(self, archive):
        def row(text: bytes, id: int) -> bytes:
            return next(row for row in text.splitlines(keepends=True) if row.split(b",")[1] == b'"%d"' % id)

        archive.rewrite("events", lambda text: text.replace(row(text, 4), row(text, 4).replace(b",,", b',"",', 1)))
        self.check(archive, ("EVENT_CHANGED", 2, None))

    def test_empty_is_not_null(self, archive):
        archive.rewrite("events", lambda text: text.replace(b',"",', b",,"))
        self.check(archive, ("EVENT_CHANGED", 3, None))

    def test_a_removed_row(self, archive):
        del archive.events[4]
        archive.write()
        found = self.check(archive, ("EVENT_CHANGED", 2, None), ("EVENT_COUNT_DIFFERS", 2, None))
        assert "6 events are here, 7 were sealed." in [problem.detail for problem in found]

    def test_all_rows_of_a_seal_removed(self, archive):
        archive.events = [event for event in archive.events if event["seal_id"] != 3]
        archive.write()
        self.check(archive, ("EVENT_CHANGED", 3, None), ("EVENT_COUNT_DIFFERS", 3, None))

    def test_swapped_rows(self, archive):
        archive.events[2], archive.events[3] = archive.events[3], archive.events[2]
        archive.write()
        self.check(archive, ("EVENT_CHANGED", 2, None), ("EVENT_OUT_OF_ORDER", 2, 3))

    def test_rows_in_the_order_of_other_seals(self, archive):
        archive.events = archive.events[7:9] + archive.events[:7] + archive.events[9:]
        archive.write()
        self.check(archive, ("EVENT_COUNT_DIFFERS", 2, None), ("EVENT_INSERTED", 2, 1))

    def test_an_added_row(self, archive):
        archive.events.insert(7, {"seal_id": 2, **an_event(99, transaction_id=709)})
        archive.write()
        self.check(archive, ("EVENT_CHANGED", 2, None), ("EVENT_COUNT_DIFFERS", 2, None))

    @pytest.mark.parametrize("seal_id", [1, 4, 77])
    def test_an_added_row_of_a_seal_that_is_not_of_the_archive(self, archive, seal_id):
        archive.events.append({"seal_id": seal_id, **an_event(99)})
        archive.events.sort(key=lambda event: event["seal_id"])
        archive.write()
        self.check(archive, ("EVENT_INSERTED", seal_id, 99))

    def test_a_row_that_comes_twice(self, archive):
        archive.events.insert(0, dict(archive.events[0]))
        archive.write()
        self.check(archive, ("EVENT_OUT_OF_ORDER", 2, 1), ("EVENT_COUNT_DIFFERS", 2, None))

    def test_a_row_under_another_seal(self, archive):
        archive.events[6]["seal_id"] = 3
        archive.write()
        self.check(archive, ("EVENT_COUNT_DIFFERS", 2, None), ("EVENT_COUNT_DIFFERS", 3, None))

    @pytest.mark.parametrize(
        ("column", "content"),
        [
            ("event_count", 8),
            ("merkle_root", "00" * 32),
            ("sealed_by", "somebody else"),
            ("sealed_at", "2025-12-01T00:00:00.000002Z"),
            ("horizon", None),
            ("not_before", "2025-11-01T00:00:00.000000Z"),
        ],
    )
    def test_an_edited_seal(self, archive, column, content):
        archive.seals[0][column] = content
        archive.write()
        self.check(archive, ("SEAL_CHANGED", 2, None))

    def test_an_edited_seal_that_was_hashed_again(self, archive):
        archive.seals[0]["sealed_by"] = "somebody else"
        archive.seal_again(archive.seals[0])
        archive.write()
        assert names(problems(archive)) == {("CHAIN_BROKEN", 3, None)}

    def test_a_chain_that_was_hashed_again_as_a_whole(self, archive):
        """Only what was kept elsewhere can tell: an anchor."""
        anchor = archive.anchor
        archive.events[0]["performed_by"] = "somebody else"
        seals, events = archive.seals, archive.events
        archive.seals, archive.events = [], []
        for seal in seals:
            own = [{n: v for n, v in e.items() if n != "seal_id"} for e in events if e["seal_id"] == seal["id"]]
            if seal["id"] == 4:
                own = [an_event(11, performed_at="2025-12-01T00:00:00.000000Z")]
            previous = seal["previous_hash"] if seal["id"] == 2 else archive.seals[-1]["seal_hash"]
            archive.add_seal(own, seal["month"][:7], id=seal["id"], previous_hash=previous)
        archive.write()
        assert problems(archive) == []
        assert names(problems(archive, anchor)) == {("ANCHOR_MISMATCH", 5, None)}

    @pytest.mark.parametrize(("place", "seal_id"), [(0, 2), (1, 3), (2, 4)])
    def test_a_removed_seal(self, archive, place, seal_id):
        manifest = archive.manifest
        del archive.seals[place]
        archive.write()
        archive.write_manifest(**{name: manifest[name] for name in ("first_seal_id", "last_seal_id")})
        self.check(archive, ("SEAL_MISSING", seal_id, None))

    def test_a_removed_last_seal(self, archive):
        last = archive.manifest["last_seal_id"]
        del archive.seals[-1]
        archive.write()
        archive.write_manifest(last_seal_id=last)
        found = self.check(archive, ("EVENT_INSERTED", 5, 10), ("MANIFEST_DIFFERS", None, None))
        assert any(problem.detail.startswith("The last_seal_id of 2025-11 is 4") for problem in found)

    def test_an_added_seal(self, archive):
        archive.add_seal([an_event(12, transaction_id=730)], previous_hash="00" * 32)
        archive.write()
        self.check(archive, ("CHAIN_BROKEN", 6, None))

    def test_events_of_another_month(self, archive):
        archive.add_seal([an_event(12, transaction_id=730, performed_at="2025-12-01T00:00:00.000000Z")])
        archive.write()
        self.check(archive, ("EVENT_OF_OTHER_MONTH", 6, 12))

    @pytest.mark.parametrize("column", ["first_event_id", "last_event_id", "up_to_transaction_id", "up_to_event_id"])
    def test_a_seal_that_was_wrong_from_the_start(self, archive, column):
        archive.add_seal([an_event(12, transaction_id=730), an_event(13, transaction_id=730)], **{column: 1})
        archive.write()
        assert names(problems(archive)) == {("SEAL_CHANGED", 6, None)}

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("event_count", 11),
            ("merkle_root", "00" * 32),
            ("last_seal_id", 4),
            ("last_seal_id", 6),
        ],
    )
    def test_an_edited_manifest(self, archive, name, content):
        archive.write_manifest(**{name: content})
        found = problems(archive)
        assert [problem.problem for problem in found] == ["MANIFEST_DIFFERS"]
        assert str(content) in found[0].detail

    def test_an_edited_first_seal(self, archive):
        archive.write_manifest(first_seal_id=1)
        self.check(archive, ("SEAL_MISSING", 1, None), ("MANIFEST_DIFFERS", None, None))

    @pytest.mark.parametrize("place", [0, 1])
    def test_an_edited_number_of_rows(self, archive, place):
        archive.manifest["files"][place]["rows"] += 1
        archive.path.write_text(json.dumps(archive.manifest))
        self.check(archive, ("MANIFEST_DIFFERS", None, None))

    def test_another_month_in_the_manifest(self, archive):
        archive.write_manifest(month="2025-12")
        self.check(archive, ("EVENT_INSERTED", 2, 1), ("MANIFEST_DIFFERS", None, None))


class TestFiles:
    @pytest.mark.parametrize("content", ["events", "seals"])
    def test_a_changed_byte(self, archive, content):
        whole = archive.file(content).read_bytes()
        for place in range(len(whole)):
            archive.file(content).write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            assert ("FILE_CHANGED", None, None) in names(problems(archive))

    @pytest.mark.parametrize("content", ["events", "seals"])
    def test_a_truncated_file(self, archive, content):
        whole = archive.file(content).read_bytes()
        archive.file(content).write_bytes(whole[: len(whole) // 2])
        found = problems(archive)
        assert names(found) == {("FILE_CHANGED", None, None), ("FILE_DAMAGED", None, None)}
        assert all(archive.file(content).name in problem.detail for problem in found)

    def test_something_at_the_end_of_a_file(self, archive):
        with archive.file("events").open("ab") as file:
            file.write(gzip.compress(b""))
        assert names(problems(archive)) == {("FILE_CHANGED", None, None)}

    def test_a_missing_file(self, archive):
        archive.file("seals").unlink()
        assert names(problems(archive)) == {("FILE_MISSING", None, None)}

    @pytest.mark.parametrize(("content", "column"), [("events", "transaction_id"), ("seals", "event_count")])
    def test_a_value_of_another_kind(self, archive, content, column):
        rows = archive.events if content == "events" else archive.seals
        rows[0][column] = "many"
        text = [",".join(rows[0]), *(",".join("" if v is None else f'"{v}"' for v in row.values()) for row in rows)]
        archive.rewrite(content, lambda _: ("\n".join(text) + "\n").encode())
        found = problems(archive)
        assert "FILE_DAMAGED" in {problem.problem for problem in found}
        assert any("'many' is not a whole number" in problem.detail for problem in found)

    @pytest.mark.parametrize(
        ("written", "complaint"),
        [
            (b"", "Expecting value"),
            (b"[]", "does not say version"),
            (b"\xff", "decode"),
            ({"version": 2}, "version 2"),
            ({"version": True}, "does not say version"),
            ({"month": "2025-13"}, "'2025-13' is not a month"),
            ({"merkle_root": None}, "does not say merkle_root"),
            ({"files": []}, "one file of events and one of seals"),
            ({"files": [1]}, "does not say name"),
        ],
    )
    def test_an_unusable_manifest(self, archive, written, complaint):
        if isinstance(written, dict):
            archive.write_manifest(**written)
        else:
            archive.path.write_bytes(written)
        (found,) = problems(archive)
        assert found.problem == "MANIFEST_DAMAGED"
        assert complaint in found.detail and archive.path.name in found.detail

    @pytest.mark.parametrize(
        ("written", "complaint"),
        [(b"[" * 200_000, "recursion"), (b" " * (audit_verifier.LONGEST_MANIFEST + 1), "longer than")],
    )
    def test_a_manifest_that_would_exhaust_the_reader(self, archive, written, complaint):
        archive.path.write_bytes(written)
        (found,) = problems(archive)
        assert found.problem == "MANIFEST_DAMAGED" and complaint in found.detail

    def test_a_row_that_would_exhaust_the_reader(self, archive, monkeypatch):
        monkeypatch.setattr(audit_verifier, "LONGEST_RECORD", 2000)
        assert problems(archive) == []
        for line in (b"x" * 2001, b'"' + b"x\n" * 1000):
            archive.write()
            archive.rewrite("events", lambda content, line=line: content + line)
            assert any("longer than 2000" in problem.detail for problem in problems(archive))

    def test_what_is_no_ordinary_file(self, archive):
        """A pipe would wait for its writer, a device never end."""
        events = archive.file("events")
        events.unlink()
        os.mkfifo(events)
        (found,) = problems(archive)
        assert (found.problem, found.detail) == ("FILE_MISSING", f"{events.name}: it is not an ordinary file")
        events.unlink()
        events.symlink_to("/dev/zero")
        assert names(problems(archive)) == {("FILE_MISSING", None, None)}
        archive.path.unlink()
        os.mkfifo(archive.path)
        assert names(problems(archive)) == {("MANIFEST_DAMAGED", None, None)}

    @pytest.mark.parametrize("name", ["/etc/passwd", "../audit_events_2025_11.csv.gz", "..", "a\\b"])
    def test_a_manifest_that_leads_elsewhere(self, archive, name):
        archive.manifest["files"][0]["name"] = name
        archive.path.write_text(json.dumps(archive.manifest))
        assert names(problems(archive)) == {("MANIFEST_DAMAGED", None, None)}


class TestSeveralArchives:
    @pytest.fixture
    def both(self, archive: ArchiveOnDisk) -> list[ArchiveOnDisk]:
        """November, and December of the same chain: seals 4 and 6."""
        december = ArchiveOnDisk(archive.folder, month="2025-12")
        december.seals = [dict(archive.seals[0])]
        december.seals[0]["id"] = 3
        december.add_seal(
            [an_event(11, performed_at="2025-12-01T00:00:00.000000Z")],
            previous_hash=archive.seals[1]["seal_hash"],
        )
        assert december.seals[1]["seal_hash"] == archive.seals[2]["seal_hash"]
        december.seals = [dict(archive.seals[2]), dict(archive.seals[3])]
        december.add_seal([an_event(12, transaction_id=800, performed_at="2025-12-02T00:00:00.000000Z")])
        return [archive, december.write()]

    def check(self, both: list[ArchiveOnDisk], anchor: str | None = None) -> set:
        return names(list(Verification(anchor).problems(archive.path for archive in both)))

    def test_one_chain(self, both):
        assert self.check(both) == set()
        assert self.check(both, both[0].anchor) == self.check(both, both[1].anchor) == set()

    def test_the_anchor_is_in_none(self, both):
        assert self.check(both, "9:" + "0" * 64) == {("ANCHOR_NOT_REACHED", 9, None)}

    def test_a_missing_archive_between_two(self, both):
        """Where the chain leaves the files, nobody knows what became of the events."""
        december = both[1]
        january = ArchiveOnDisk(december.folder, month="2026-01", seals=[dict(seal) for seal in december.seals])
        for number, month in ((7, "2026-02"), (8, "2026-02"), (9, None)):
            moment = f"{month or january.month}-03T00:00:00.000000Z"
            january.add_seal([an_event(number + 10, transaction_id=900, performed_at=moment)], month=month)
        chain = january.seals
        gap = {("ARCHIVE_MISSING", 7, None)}
        for first, expected in ((5, set()), (7, set()), (8, gap), (9, gap)):
            january.seals = [seal for seal in chain if seal["id"] >= first]
            three = [*both, january.write()]
            assert self.check(three) == self.check(three, january.anchor) == expected
            # In whatever order they are given; alone, or as pieces, nothing lies between.
            assert self.check([january, *both]) == expected
            pieces = Verification(is_whole=False).problems(archive.path for archive in three)
            assert list(pieces) == [] and self.check([january]) == set()

    def test_two_chains(self, both):
        december = both[1]
        december.seals[1]["sealed_by"] = "somebody else"
        december.seal_again(december.seals[1])
        december.seals[2]["previous_hash"] = december.seals[1]["seal_hash"]
        december.seal_again(december.seals[2])
        december.write()
        assert self.check(both) == {("CHAIN_BROKEN", 5, None)}

    def test_those_of_a_folder_in_their_order(self, both):
        folder = both[0].folder
        for name in ("audit_2025_11_10.json", "audit_2025_11_2.json", "audit_2024_12.json", "notes.json"):
            (folder / name).write_text("")
        found = [path.name for path in audit_verifier.manifests_in(folder)]
        assert found == [
            *("audit_2024_12.json", "audit_2025_11.json", "audit_2025_11_2.json", "audit_2025_11_10.json"),
            "audit_2025_12.json",
        ]


class TestOnItsOwn:
    """As an inspector runs it: one copied file, and Python."""

    def run(self, *arguments: object, **options: object) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, *map(str, arguments)], capture_output=True, text=True, timeout=60, **options
        )

    @pytest.fixture
    def copy(self, tmp_path: Path) -> Path:
        return Path(shutil.copy(audit_verifier.__file__, tmp_path / "verify.py"))

    def test_intact(self, archive, copy):
        result = self.run("-I", "-S", copy, archive.path, "--anchor", archive.anchor)
        intact = "intact: archives: 1, events: 10, seals: 2 to 5\n"
        assert (result.returncode, result.stdout, result.stderr) == (0, intact, "")

    def test_as_a_module_on_a_folder(self, archive):
        result = self.run("-m", "machserial.audit_verifier", archive.folder)
        assert (result.returncode, result.stdout) == (0, "intact: archives: 1, events: 10, seals: 2 to 5\n")

    def test_what_files_say_commands_no_terminal(self, archive, copy):
        archive.manifest["files"][0]["name"] = "\x1b]0;owned\x07\u202e"
        archive.path.write_text(json.dumps(archive.manifest))
        result = self.run("-I", "-S", copy, archive.path)
        assert result.returncode == 1 and "\\u001b]0;owned\\u0007\\u202e" in result.stdout
        assert result.stdout.replace("\n", "").isprintable()

    def test_problems(self, archive, copy):
        archive.events[2], archive.events[3] = archive.events[3], archive.events[2]
        archive.write()
        result = self.run("-I", "-S", copy, archive.path)
        assert result.returncode == 1
        assert "EVENT_OUT_OF_ORDER: seal 2: event 3: It comes after event 4." in result.stdout.splitlines()
        assert "intact" not in result.stdout

    @pytest.mark.parametrize(
        ("arguments", "complaint"),
        [((), "required"), (("--anchor", "5", "x"), "is not an anchor"), ((".",), "there is no manifest")],
    )
    def test_wrong_usage(self, copy, tmp_path, arguments, complaint):
        result = self.run("-I", "-S", copy, *arguments, cwd=tmp_path)
        assert result.returncode == 2
        assert complaint in result.stderr
