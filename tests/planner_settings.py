"""Whether a trigger's plans depend on who fires it: one of the checks of tests/lint.py.

A setting of a function (set enable_...) holds for everything that it calls and for the triggers that it fires. A
session plans a query once: so what a trigger is planned under would be a matter of who fires it first.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

FUNCTION = re.compile(r"create function machserial\.(\w+)\(((?:(?!create function).)*?)\bas \$\$(.*?)\$\$;", re.DOTALL)
TRIGGER = re.compile(
    r"create trigger \w+\s+\w+ ([\w\s,]+?)\s+on machserial\.(\w+)\b[^;]*?execute function machserial\.(\w+)\("
)


@dataclass(frozen=True)
class Code:
    """A function as far as plans go: the planner settings that it has of its own, and what it does."""

    settings: frozenset[str]
    body: str

    @property
    def calls(self) -> set[str]:
        return set(re.findall(r"machserial\.(\w+)\(", self.body))

    @property
    def writes(self) -> set[tuple[str, str]]:
        """("insert", "serials"), …"""
        found = re.findall(r"\b(insert|update|delete)(?: into| from)? machserial\.(\w+)\b(?!\()", self.body)
        upserted = {("update", table) for _, table in found if "do update" in self.body}
        return set(found) | upserted

    @property
    def asks(self) -> bool:
        """Whether it has queries of tables, and so plans."""
        return re.search(r"\b(from|join|update) machserial\.\w+\b(?!\()", self.body) is not None


def functions_of(script: str) -> dict[str, Code]:
    return {
        name: Code(frozenset(re.findall(r"^set (enable_\w+)", head, re.MULTILINE)), without_texts(body))
        for name, head, body in FUNCTION.findall(script)
    }


def without_texts(body: str) -> str:
    """Statements that a function only tells are not its own."""
    return re.sub(r"'(?:[^']|'')*'", "''", re.sub(r"--.*", "", body))


def triggers_of(script: str) -> dict[tuple[str, str], set[str]]:
    """The functions that are fired, by what is done to which table."""
    fired = defaultdict(set)
    for when, table, function in TRIGGER.findall(script):
        for verb in re.findall(r"\b(insert|update|delete)\b", when):
            fired[verb, table].add(function)
    return fired


def inherited(functions_script: str, migrations_script: str) -> Iterator[str]:
    """The trigger functions that get a planner setting from whoever fires them, and have none of their own."""
    functions, fired = functions_of(functions_script), triggers_of(migrations_script)
    for name, code in functions.items():
        reached: set[str] = set()
        waiting = {name} if code.settings else set()
        while waiting:
            one = waiting.pop()
            reached.add(one)
            triggers = set().union(*(fired.get(write, set()) for write in functions[one].writes))
            for trigger in triggers:
                lacking = code.settings - functions[trigger].settings
                if lacking and functions[trigger].asks:
                    yield f"{name}() fires {trigger}(), which does not set {', '.join(sorted(lacking))} itself"
            waiting |= (functions[one].calls | triggers) & functions.keys() - reached
