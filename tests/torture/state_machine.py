"""All verbs in random order against the model, for as long as there is time. See tests/state_machine.py."""

from __future__ import annotations

from functools import partial

from state_machine import SABOTAGE, Cloned, Rolled, play

from torture import Part, Run

EXAMPLES, STEPS = 5, 80
# To make a finding small takes a while.
SHRINKING_SECONDS = 60


def torture(run: Run, sabotage: str | None = None) -> None:
    with run.server() as server:
        for cycle in run.cycles():
            seed = run.dice(cycle).randrange(2**32)
            kind = Cloned if cycle % 3 == 2 else Rolled
            database = kind(server, sabotage)
            try:
                shrinks = sabotage is None and run.left > SHRINKING_SECONDS
                found = play(database, seed, EXAMPLES, STEPS, shrinks=shrinks)
            finally:
                database.close()
            run.count(
                operations=database.tally.total(),
                acknowledged=sum(times for (_, code), times in database.tally.items() if code is None),
            )
            if found:
                run.finding(found, cycle=cycle, again=f"play({kind.__name__}(server), {seed}, {EXAMPLES}, {STEPS})")


PART = Part(
    title="every verb in random order: the database and a model of the contract agree",
    torture=torture,
    controls={what: partial(torture, sabotage=statements) for what, statements in SABOTAGE.items()},
)
