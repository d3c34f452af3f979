"""machserial vendor: receive, accept, waive, reject, list, rule"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import click
import psycopg

from machserial import output
from machserial.errors import ExpectedError
from machserial.files import receipts
from machserial.functions import Row, call, call_one
from machserial.options import ID, Group, Settings, one_of, page_options, pass_settings, reason_option, show_page

# What a file may say a line, and the options that say it for all lines that do not.
PLACE = ("vendor_name", "part_id", "received_date", "site_id")

# Of a file. Somebody who sends one twice does not want to see it again.
LISTED = 20

REFUSED = "REFUSED"

# What a terminal has room for; --json gives all.
IN_A_TABLE = ("id", "serial_number", "vendor_name", "part_id", "status", "received_date", "validation_errors")
RULE_IN_A_TABLE = (
    "vendor_name",
    "part_id",
    "pattern",
    "regex",
    "min_length",
    "max_length",
    "check_algorithm",
    "stdnum_kind",
)

ACCEPTABLE = """
    select array_agg(id order by id) filter (where validation_errors = '{}' or waived_at is not null) as ids,
        count(*) filter (where validation_errors <> '{}' and waived_at is null) as held_back
    from machserial.vendor_serials
    where status = 'PENDING' and vendor_name = %(vendor)s and (%(part)s::text is null or part_id = %(part)s)
"""

LIST = """
    select * from machserial.vendor_serials
    where
        (%(status)s::text is null or status = %(status)s)
        and (%(vendor)s::text is null or vendor_name = %(vendor)s)
        and (%(part)s::text is null or part_id = %(part)s)
        and id > coalesce(%(after)s::bigint, 0)
    order by id
    limit %(limit)s::integer + 1
"""

LIST_RULES = """
    select
        id, vendor_name, part_id, pattern, regex, min_length, max_length, check_algorithm, stdnum_kind, created_at,
        created_by
    from machserial.vendor_rules
    where %(vendor)s::text is null or vendor_name = %(vendor)s
    order by vendor_name, part_id nulls first
"""


@click.group("vendor", cls=Group)
def vendor_group() -> None:
    """Receive, accept and reject the serial numbers of vendors."""


@vendor_group.command()
@click.argument("serials", metavar="[SERIAL]...", nargs=-1)
@click.option("--vendor", "vendor_name", help="Vendor that sent them.")
@click.option("--part", "part_id", help="Part that carries them.")
@click.option("--received", "received_date", metavar="TIME", help="Date of receipt. Default: now.")
@click.option("--site", "site_id", help="Site that received them. Default: DEFAULT.")
@click.option(
    "--csv", "file", metavar="FILE", type=click.Path(path_type=Path), help="Read them from this file; - is stdin."
)
@click.option(
    "--refused",
    "refused_file",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write refused numbers and reasons to this CSV file, to be corrected and received again.",
)
@pass_settings
def receive(
    settings: Settings, serials: tuple[str, ...], file: Path | None, refused_file: Path | None, **place: str | None
) -> None:
    """Receive serial numbers. Good ones become PENDING; the others are refused.

    \b
    FILE is CSV in UTF-8. Either it has one serial number a line; or its first line names its columns:
    serial_number, and if wanted vendor_name, part_id, received_date, site_id, which go before the options. The '
    before =, +, -, or @ with which --refused keeps a spreadsheet from running a vendor's name is taken off.

    Everything is received in one transaction, a big file in calls of so many numbers as the setting batch_size
    says: if it is interrupted, or a part is unknown, nothing is received. Of a file only the first numbers are listed
    that were refused or break a rule of their vendor; --json gives all. Exit code 1 also when some were refused,
    though the others are received.
    """
    if bool(serials) == bool(file):
        raise click.UsageError("give either serial numbers or --csv")
    numbers = receipts.read_numbers(file, PLACE) if file else receipts.as_lines(serials)
    deliveries = [{**place, **number} for number in numbers]
    require_vendor_and_part(deliveries, is_bulk=file is not None)
    with settings.connect() as connection:
        received = receive_with_progress(connection, deliveries)
        refused = [row for row in received if row["status"] == REFUSED]
        if refused_file:
            receipts.write_refused(refused_file, refused, (receipts.NUMBER, *PLACE))
    print_receipt(settings, received, is_bulk=file is not None, elsewhere=refused_file is not None)
    if refused:
        raise ExpectedError(
            f"{len(refused):,} of {len(received):,} serial numbers were refused",
            detail="the others are received",
            remedy=f"see {refused_file}" if refused_file else "--refused FILE writes them to a file",
        )


def require_vendor_and_part(deliveries: list[Row], *, is_bulk: bool) -> None:
    """Whether given by an option or by the file."""
    for option, name in (("--vendor", "vendor_name"), ("--part", "part_id")):
        lacking = next((delivery for delivery in deliveries if not delivery[name]), None)
        if lacking:
            where = f", and line {lacking['line']} of the file has no {name}" if is_bulk else ""
            raise click.UsageError(f"{option} is missing{where}")


def receive_with_progress(connection: psycopg.Connection, deliveries: list[Row]) -> list[Row]:
    """The delivered rows in their order, each with what became of it: vendor_serial_id, status, errors."""
    received = []
    size = int(call_one(connection, "_setting", name="batch_size")["_setting"])
    with output.progress("serial numbers", len(deliveries)) as advance:
        for same_place, some in portions(deliveries, size):
            rows = call(
                connection,
                "receive_vendor_serials",
                serial_numbers=[delivery[receipts.NUMBER] for delivery in some],
                **same_place,
            )
            received += [{**delivery, **row} for delivery, row in zip(some, rows, strict=True)]
            advance(len(some))
    return sorted(received, key=lambda row: row["line"])


def portions(deliveries: list[Row], size: int) -> Iterator[tuple[Row, list[Row]]]:
    """What the deliveries of one call have in common, and those deliveries: at most size of them."""

    def place(delivery: Row) -> list[str]:
        return [delivery[name] or "" for name in PLACE]

    # Numbers that come in the same order in every run cannot make two runs deadlock.
    in_order = sorted(deliveries, key=lambda delivery: (place(delivery), delivery[receipts.NUMBER]))
    for _, together in itertools.groupby(in_order, key=place):
        while some := list(itertools.islice(together, size)):
            yield {name: some[0][name] for name in PLACE}, some


def print_receipt(settings: Settings, received: list[Row], *, is_bulk: bool, elsewhere: bool) -> None:
    """All rows as JSON or of a few numbers; of a file the first that somebody has to look at."""
    columns = ("serial_number", "vendor_serial_id", "status", "errors")
    rows = [{name: row[name] for name in (*columns, *PLACE)} for row in received]
    if settings.json or not is_bulk:
        output.print_rows(rows, as_json=settings.json, columns=columns)
        return
    pending = [row for row in rows if row["status"] != REFUSED]
    remarkable = [row for row in (pending if elsewhere else rows) if row["errors"]]
    if remarkable:
        output.print_rows(remarkable[:LISTED], as_json=False, columns=columns)
    if len(remarkable) > LISTED:
        output.message(f"{len(remarkable) - LISTED:,} more are not shown; --json gives all")
    breaking = sum(bool(row["errors"]) for row in pending)
    output.message(f"{len(pending):,} received" + (f", of which {breaking:,} against a rule" if breaking else ""))


@vendor_group.command()
@click.argument("ids", metavar="[ID]...", nargs=-1, type=ID)
@click.option("--all", "accept_all", is_flag=True, help="All PENDING ones of --vendor that follow the rules.")
@click.option("--vendor", help="Vendor, with --all.")
@click.option("--part", help="Only of this part, with --all.")
@click.option("--internal", type=ID, help="Id of our own serial for the same part.")
@pass_settings
def accept(
    settings: Settings,
    ids: tuple[int, ...],
    accept_all: bool,
    vendor: str | None,
    part: str | None,
    internal: int | None,
) -> None:
    """Accept vendor serials: they become ACTIVE, all or none."""
    if bool(ids) == accept_all:
        raise click.UsageError("give either ids or --all")
    if accept_all != bool(vendor) or (part and not accept_all):
        raise click.UsageError("--all needs --vendor; --vendor and --part need --all")
    if internal and len(ids) != 1:
        raise click.UsageError("--internal goes with one id")
    held_back = 0
    with settings.connect() as connection:
        if accept_all:
            found = connection.execute(ACCEPTABLE, {"vendor": vendor, "part": part}).fetchone()
            ids, held_back = found["ids"] or (), found["held_back"]
        if internal:
            accepted = call(connection, "accept_vendor_serial", vendor_serial_id=ids[0], internal_serial_id=internal)
        else:
            accepted = call(connection, "accept_vendor_serials", vendor_serial_ids=list(ids)) if ids else []
    output.print_rows(accepted, as_json=settings.json, columns=IN_A_TABLE)
    if held_back:
        output.message(f"held back as against a rule: {held_back:,}; waive or reject them")


@vendor_group.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True, type=ID)
@reason_option
@pass_settings
def waive(settings: Settings, ids: tuple[int, ...], reason: str) -> None:
    """Override rule violations of vendor serials, with a reason."""
    for_each(settings, "waive_vendor_rule", ids, reason)


@vendor_group.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True, type=ID)
@reason_option
@pass_settings
def reject(settings: Settings, ids: tuple[int, ...], reason: str) -> None:
    """Reject vendor serials, all or none. Their numbers are free again."""
    for_each(settings, "reject_vendor_serial", ids, reason)


def for_each(settings: Settings, function: str, ids: tuple[int, ...], reason: str) -> None:
    """Calls function for each vendor serial, in one transaction."""
    with settings.connect() as connection:
        rows = [call_one(connection, function, vendor_serial_id=one, reason=reason) for one in ids]
    output.print_rows(rows, as_json=settings.json, columns=IN_A_TABLE)


@vendor_group.command("list")
@click.option(
    "--status",
    type=one_of("PENDING", "ACTIVE", "CONFLICT", "REJECTED", "RETIRED", "INVALID"),
    help="Only with this status.",
)
@click.option("--vendor", help="Only of this vendor.")
@click.option("--part", help="Only of this part.")
@page_options
@pass_settings
def list_vendor_serials(settings: Settings, **arguments: object) -> None:
    """List vendor serials by id."""
    show_page(settings, LIST, arguments, IN_A_TABLE)


@vendor_group.group()
def rule() -> None:
    """Define validation rules for a vendor's numbers."""


@rule.command("list")
@click.option("--vendor", help="Only of this vendor.")
@pass_settings
def list_rules(settings: Settings, vendor: str | None) -> None:
    """List the rules. A rule without part is the vendor's general rule."""
    with settings.connect() as connection:
        rules = connection.execute(LIST_RULES, {"vendor": vendor}).fetchall()
    output.print_rows(rules, as_json=settings.json, columns=RULE_IN_A_TABLE)


@rule.command("set")
@click.argument("vendor_name", metavar="VENDOR")
@click.option("--part", "part_id", help="For this part. Default: for all parts without a rule of their own.")
@click.option("--pattern", help="Pattern that the numbers follow, such as 'AC-{YYYY}-{SEQ:6}'.")
@click.option("--regex", help="Regular expression that they match, such as '^AC-[0-9]{6}$'.")
@click.option("--min-length", type=int, help="Minimum length in characters.")
@click.option("--max-length", type=int, help="Maximum length in characters.")
@click.option("--check", "check_algorithm", metavar="ALGORITHM", help="Check digit that they end with, such as luhn.")
@click.option(
    "--stdnum-kind", metavar="KIND", help="Numbering scheme that they follow, such as imei; needs machserial_plpython."
)
@pass_settings
def set_rule(settings: Settings, **arguments: object) -> None:
    """Set the rule for VENDOR's numbers. Replaces the previous rule as a whole."""
    with settings.connect() as connection:
        made = call_one(connection, "set_vendor_rule", **arguments)
    output.print_record(made, as_json=settings.json)


@rule.command("delete")
@click.argument("vendor_name", metavar="VENDOR")
@click.option("--part", "part_id", help="The rule for this part. Default: the general one.")
@pass_settings
def delete_rule(settings: Settings, **arguments: object) -> None:
    """Delete a rule of VENDOR."""
    with settings.connect() as connection:
        deleted = call_one(connection, "delete_vendor_rule", **arguments)
    output.print_record(deleted, as_json=settings.json)
