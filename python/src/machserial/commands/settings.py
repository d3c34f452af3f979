"""machserial settings: list, set"""

from __future__ import annotations

import click

from machserial import output
from machserial.errors import ExpectedError
from machserial.options import Group, Settings, pass_settings

LIST = """
    select s.name, s.value, k.standard, s.description
    from machserial.settings as s
    left join machserial._known_settings() as k on k.name = s.name
    order by s.name
"""


@click.group("settings", cls=Group)
def settings_group() -> None:
    """Show and change database-wide settings."""


@settings_group.command("list")
@pass_settings
def list_settings(settings: Settings) -> None:
    """List the settings, their values and defaults."""
    with settings.connect() as connection:
        rows = connection.execute(LIST).fetchall()
    output.print_rows(rows, as_json=settings.json)


@settings_group.command("set")
@click.argument("name")
@click.argument("value")
@pass_settings
def set_setting(settings: Settings, name: str, value: str) -> None:
    """Set NAME to VALUE. The change is in the audit trail."""
    with settings.connect() as connection:
        changed = connection.execute(
            "update machserial.settings set value = %s where name = %s returning name, value, description",
            [value, name],
        ).fetchone()
        if not changed:
            raise ExpectedError(f'there is no setting "{name}"', remedy="see machserial settings list")
    output.print_record(changed, as_json=settings.json)
