"""Single calls beside the function that a careful developer writes by hand for one part: the same rules, declared.

Its tables have the columns, defaults and indexes of machserial's, and what triggers hold there as constraints. It
looks the part up, numbers, inserts and returns; a trigger for each row writes the event.
"""

from __future__ import annotations

from collections.abc import Iterator

import psycopg

from machserial.bench import targets
from machserial.bench.context import Bench, clients_text
from machserial.bench.measure import cpu_timer, interleaved
from machserial.bench.place import is_local
from machserial.bench.registry import PART, PREFIX, SERIAL_COLUMNS, Registry
from machserial.bench.results import Case, Comparison, Skipped, figures

NAME = "by_hand"
TITLE = "single calls, beside a function written by hand"
# The formats whose calls take turns: a check digit each. The first two have a sister written by hand.
CHECKS = ("", "luhn", "mod11", "verhoeff", "mod37_36", "mod97_10")

RULES = """
alter table by_hand.serials
add foreign key (site_id) references machserial.sites (id),
add foreign key (format_id) references machserial.serial_formats (id),
add foreign key (part_id, part_type) references machserial.parts (id, part_type),
add check (serial_number ~ '^[!-~]+( [!-~]+)*$' and length(serial_number) <= 255),
add check (source in ('SYSTEM_GENERATED', 'VENDOR', 'MANUAL', 'LATE_ASSIGNMENT', 'IMPORT')),
add check (status in ('PENDING', 'ACTIVE', 'CONFLICT', 'REJECTED', 'RETIRED', 'INVALID')),
add check (scopes <@ '{ENTERPRISE,SITE,PART_TYPE}'::text[] and cardinality(scopes) > 0)
"""
AUDIT = """
create function by_hand.write_event() returns trigger language plpgsql as $$
begin
    insert into by_hand.audit_events (event_type, event_source, serial_id, serial_number, part_id, site_id)
    values (
        'SERIAL_GENERATED', current_setting('application_name'), new.id, new.serial_number, new.part_id, new.site_id
    );
    return null;
end
$$;
create trigger serials_are_audited after insert on by_hand.serials
for each row execute function by_hand.write_event()
"""
NUMBER = """
create function by_hand.{name}(part_id text)
returns table (serial_id bigint, serial_number text, sequence_number bigint)
language plpgsql as $$
#variable_conflict use_column
declare
    value constant bigint := nextval('by_hand.numbers');
    number text := '{prefix}' || lpad(value::text, 9, '0');
    part record;
    digit integer;
    total integer := 0;
begin
    {check_digit}
    select p.part_type, p.default_scopes into part from machserial.parts as p where p.id = {name}.part_id;
    return query
    insert into by_hand.serials ({columns})
    values (
        number, value, {name}.part_id, part.part_type, 'DEFAULT', 'SYSTEM_GENERATED', part.default_scopes, {format_id}
    )
    returning id, serial_number, sequence_number;
end
$$
"""
LUHN = """
    for place in 1..9 loop
        digit := substr(number, length(number) + 1 - place, 1)::integer * (1 + place % 2);
        total := total + digit / 10 + digit % 10;
    end loop;
    number := number || (10 - total % 10) % 10;
"""
BY_HAND = {"": "number", "luhn": "luhn_number"}


def run(bench: Bench) -> Iterator[Case | Skipped]:
    with bench.registry() as registry:
        with registry.session() as session:
            prepare(registry, session)
        yield own_time(bench, registry)
        for clients in bench.sizes.clients:
            yield rates(bench, registry, clients)


def prepare(registry: Registry, session: psycopg.Connection) -> None:
    registry.add_tables(session, "by_hand")
    session.execute(RULES)
    session.execute(AUDIT)
    for check, name in BY_HAND.items():
        session.execute(
            NUMBER.format(
                name=name,
                prefix=PREFIX,
                check_digit=LUHN if check else "",
                columns=SERIAL_COLUMNS,
                format_id=registry.format_id,
            )
        )
    for ordinal, check in enumerate(CHECKS):
        if check:
            pattern = f"{chr(ord('A') + ordinal)}-{{SEQ:9}}{{CHECK:{check}}}"
            session.execute("select machserial.create_format(%s, %s)", [check, pattern])


def call(check: str) -> str:
    named = f", format => '{check}'" if check else ""
    return f"select serial_number from machserial.generate('{PART}'{named})"


def call_by_hand(check: str) -> str:
    return f"select serial_number from by_hand.{BY_HAND[check]}('{PART}')"


def title(function: str, check: str) -> str:
    return f"{function}, {check}" if check else function


def scripts(registry: Registry, checks: tuple[str, ...]) -> dict[str, str]:
    """Every variant and its statement."""
    return {
        **{title("generate()", check): call(check) for check in checks},
        **{title("by hand", check): call_by_hand(check) for check in BY_HAND},
        "bare rows": registry.bare_single(),
    }


def comparisons(checks: tuple[str, ...], target: targets.Target) -> list[Comparison]:
    return [
        *(
            Comparison(title("generate()", check), title("by hand", check if check in BY_HAND else "luhn"), target)
            for check in checks
        ),
        Comparison("by hand", "bare rows"),
    ]


def own_time(bench: Bench, registry: Registry) -> Case | Skipped:
    """The time that the processor spends in the session's process: what else the machine does leaves it alone."""
    statements = scripts(registry, CHECKS)
    with bench.sessions(registry, len(statements)) as sessions:
        if not is_local(sessions[0]):
            return Skipped(NAME, "the processor's time of a backend on another machine cannot be looked at")
        repeats = bench.sizes.repeats * 10
        variants = {
            name: cpu_timer(session, statement, repeats)
            for session, (name, statement) in zip(sessions, statements.items(), strict=True)
        }
        for warm_up in variants.values():
            warm_up()
        raw = interleaved(variants, bench.rounds, registry.checkpoint)
    return Case(
        NAME, "1 client, the processor's time", "µs", figures(raw, 1e6), comparisons(CHECKS, targets.SINGLE_CALL_TIME)
    )


def rates(bench: Bench, registry: Registry, clients: int) -> Case:
    registry.empty("bare", "by_hand")
    checks = tuple(BY_HAND)
    return Case(
        NAME,
        clients_text(clients),
        "1/s",
        bench.rates(registry, scripts(registry, checks), clients),
        comparisons(checks, targets.RATE_BY_HAND),
    )
