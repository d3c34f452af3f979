"""What a verb leaves behind in its session: no lock, no setting, no temporary table, nothing prepared.

Sessions of pools live for weeks: one lock a call fills the lock table of the whole server, and a setting is the next
one's, whoever that is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import pytest
from scenes import MIXED, SCENES, statement_of
from support import call, generated, make_format, make_part, mostly_slow
from verbs import LOOK_UPS, VERBS, furnish

# Settings that only exist where somebody has set them are not in pg_settings: those that our functions name.
SESSION = """
    select 'lock', concat_ws(' ', mode, classid, objid, objsubid)
    from pg_locks where pid = pg_backend_pid() and locktype = 'advisory'
    union all
    select 'temporary table', relname from pg_class where relnamespace = pg_my_temp_schema()
    union all
    select 'prepared statement', statement from pg_prepared_statements where from_sql
    union all
    select 'cursor', name from pg_cursors where name <> ''
    union all
    select 'channel', c from pg_listening_channels() as c
    union all
    -- Those of the transaction have their own defaults.
    select 'setting', concat_ws(' ', name, setting, source) from pg_settings where name !~ '^transaction_'
    union all
    select 'setting', concat_ws(' ', s.name, nullif(current_setting(s.name, true), ''))
    from (
        select distinct m[1] as name
        from pg_proc, regexp_matches(prosrc, '''(machserial\\.[a-z_]+)'', *(?:true|false|[a-z_]+, *true)', 'g') as m
        where pronamespace = 'machserial'::regnamespace
        union
        values ('role'), ('session_authorization')
    ) as s
"""


def left_behind(session: psycopg.Connection) -> set[tuple[str, str]]:
    return set(session.execute(SESSION).fetchall())


class Watched:
    """A session that is looked at after each statement."""

    def __init__(self, session: psycopg.Connection) -> None:
        self.session = session
        # The first use of PL/pgSQL brings its settings.
        session.execute("do $$ begin end $$")
        self.before = left_behind(session)

    def commits(self, statement: str) -> None:
        """It must succeed."""
        self.session.execute(statement)
        assert left_behind(self.session) == self.before, statement

    def tries(self, statement: str) -> None:
        """Committed, again (by a plan that is kept now, or refused), and rolled back."""
        for _ in range(2):
            try:
                self.session.execute(statement)
            except psycopg.Error as error:
                assert error.sqlstate[:2] not in ("42", "XX"), statement
            assert left_behind(self.session) == self.before, statement
        try:
            with self.session.transaction(force_rollback=True):
                self.session.execute(statement)
        except psycopg.Error:
            pass
        assert left_behind(self.session) == self.before, f"rolled back: {statement}"


@pytest.fixture
def watched(connection: psycopg.Connection, connect: Callable[..., psycopg.Connection]) -> Iterator[Watched]:
    connection.commit()
    return Watched(connect(autocommit=True))


def test_the_settings_of_machserial_are_looked_at(watched):
    assert {kind for kind, _ in watched.before} == {"setting"}
    names = {text.split(" ")[0] for _, text in watched.before}
    assert {"machserial.actor", "machserial.reason", "machserial.debug", "lock_timeout", "role"} <= names


@pytest.mark.parametrize(
    ("statement", "kind"),
    [
        ("select pg_advisory_lock_shared(1, 2)", "lock"),
        ("set lock_timeout = '1s'", "setting"),
        ("select set_config('machserial.reason', 'mine', false)", "setting"),
        ("create temporary table kept (i integer)", "temporary table"),
        ("prepare kept as select 1", "prepared statement"),
        ("declare kept cursor with hold for select 1", "cursor"),
        ("listen kept", "channel"),
    ],
)
def test_what_is_left_is_noticed(watched, statement, kind):
    with pytest.raises(AssertionError):
        watched.commits(statement)
    assert {found for found, _ in left_behind(watched.session) - watched.before} == {kind}


def test_every_verb_leaves_nothing(connection, watched):
    furnish(connection)
    for number, verb in enumerate((*VERBS, *LOOK_UPS)):
        statement = verb.prepare(connection, number, 3)
        connection.commit()
        watched.commits(statement)
        if "machserial.pause(" in statement:
            watched.commits("select machserial.resume('done')")


@pytest.mark.parametrize("scene", mostly_slow((*SCENES, *MIXED), SCENES[::3]), ids=lambda scene: scene.name)
def test_verbs_that_meet_leave_nothing(connection, watched, scene):
    """The same rows for every verb, as they come: many are refused, and that leaves nothing either."""
    names = scene.prepare(connection, 1)
    connection.commit()
    for verb in scene.verbs:
        watched.tries(statement_of(connection, verb, names))


@pytest.mark.parametrize("allocation", ["SEQUENCE", "GAPLESS"])
def test_one_number_at_a_time_leaves_no_lock(connection, watched, allocation):
    """By a kept plan, by a new one, and by a sequence that has never counted."""
    make_part(connection)
    make_format(connection, "F", "F{SEQ:6}", allocation=allocation, counter_per="PART")
    call(connection, "assign_format", part_id="P", format="F")
    connection.commit()
    for _ in range(3):
        watched.commits("select machserial.generate('P')")
    connection.execute("select machserial.reset_counter('F', 500, 'P', reason => 'moved')")
    connection.commit()
    for _ in range(2):
        watched.commits("select machserial.generate('P')")
    assert generated(connection) == ["F000502"]


@pytest.mark.parametrize("quantity", [1, 20, 200])
def test_giving_up_while_the_sequence_is_altered_leaves_no_lock(connection, watched, quantity):
    """The only wait of these calls: integrity() tells its reader to alter a sequence."""
    make_part(connection)
    make_format(connection, "F", "F{SEQ:6}")
    call(connection, "assign_format", part_id="P", format="F")
    [(sequence,)] = connection.execute("select 'machserial.counter_' || id from machserial.counters").fetchall()
    connection.commit()
    watched.commits(f"select count(*) from machserial.generate('P', {quantity})")
    connection.execute(f"alter sequence {sequence} no cycle")
    watched.session.execute("set lock_timeout = '50ms'")
    watched.before = left_behind(watched.session)
    with pytest.raises(psycopg.errors.LockNotAvailable):
        watched.session.execute("select count(*) from machserial.generate('P', %s)", (quantity,))
    assert left_behind(watched.session) == watched.before
