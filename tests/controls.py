"""What tests/interleavings.py has to notice: something is broken on purpose, and a case tells of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from interleavings import READ_COMMITTED, Case, Playhouse, stop_at
from scenes import LINEAGE, MIXED, PARENTS, PLACEHOLDERS, Scene, counting, numbers


@dataclass(frozen=True)
class Control:
    """play() finds nothing wrong, and after sabotage something that finding is part of."""

    name: str
    scene: Scene
    play: Callable[[Playhouse], list[str]]
    sabotage: str
    finding: str
    gates: tuple[str, ...] = ()


def case(first: str, second: str) -> Callable[[Playhouse], list[str]]:
    def play(house: Playhouse) -> list[str]:
        verbs = {verb.name: verb for verb in house.scene.verbs}
        return house.play(Case(verbs[first], verbs[second]))

    return play


def walk(first: str, second: str, stops: int) -> Callable[[Playhouse], list[str]]:
    def play(house: Playhouse) -> list[str]:
        verbs = {verb.name: verb for verb in house.scene.verbs}
        return house.walk({"a": verbs[first], "b": verbs[second]}, stop_at(stops), READ_COMMITTED).problems

    return play


# A function of machserial with some words of its body taken out.
WITHOUT = """
do $do$
declare
    source constant text := pg_get_functiondef('{function}'::regprocedure);
begin
    if strpos(source, '{words}') = 0 then
        raise exception 'nothing to take out';
    end if;
    execute replace(source, '{words}', '');
end
$do$
"""


def without(function: str, words: str) -> str:
    return WITHOUT.format(function=function, words=words)


CONTROLS = (
    Control(
        "a claim index is dropped",
        numbers("ENTERPRISE"),
        case("register_serial", "insert"),
        "drop index machserial.serials_enterprise_key",
        "a number twice in a scope",
    ),
    Control(
        "a serial may have two placeholders",
        PLACEHOLDERS,
        case("give a serial", "give it to the second"),
        "alter table machserial.late_assignment_placeholders"
        " drop constraint late_assignment_placeholders_serial_id_key",
        "a serial of two placeholders",
    ),
    Control(
        "a serial that is taken into a lineage is not locked",
        LINEAGE,
        case("a to b and c", "b and c to a"),
        "create or replace function machserial._lock_serials(serial_ids bigint[], to_be_lifted bigint[])"
        " returns void language sql as 'select'",
        "a serial that is part of itself",
    ),
    Control(
        "versions of a format are not held",
        counting("SEQUENCE"),
        case("assign_format", "revise_format"),
        "create or replace function machserial._hold_format(name text, is_changing boolean)"
        " returns void language sql as 'select'",
        "assignments to a version that another has replaced",
    ),
    Control(
        "gapless counters are locked as they come",
        MIXED[-1],
        walk("0 forwards", "0 backwards", 7),
        "create or replace function machserial._hold_gapless(trigger_type text, part_ids text[], contexts jsonb[])"
        " returns void language sql as 'select'",
        "40P01",
        MIXED[-1].gates,
    ),
    Control(
        "a sequence is locked like a gapless counter",
        counting("SEQUENCE"),
        case("generate", "generate a batch"),
        "create function public.hold() returns trigger language plpgsql as"
        " 'begin perform from machserial.serial_formats for update; return null; end';"
        " create trigger hold before insert on machserial.serials execute function public.hold()",
        "generate a batch waits for generate",
    ),
    Control(
        "a part can be deleted under its serial",
        PARENTS,
        # At the last stop of the insert: all that looks at it has looked.
        walk("insert", "delete the part", 4),
        # Whatever keeps a part for its serials: a foreign key, or triggers of parts.
        """
        do $do$
        declare
            rule record;
        begin
            for rule in
                select conname from pg_constraint
                where conrelid = 'machserial.serials'::regclass and confrelid = 'machserial.parts'::regclass
            loop
                execute format('alter table machserial.serials drop constraint %I', rule.conname);
            end loop;
            alter table machserial.parts disable trigger all;
        end
        $do$
        """,
        "a child without its parent",
        ("serials",),
    ),
)
