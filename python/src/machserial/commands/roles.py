"""machserial roles: create, list, grant-site, revoke-site, lift-limits"""

from __future__ import annotations

import click

from machserial import output
from machserial.functions import Row, call
from machserial.options import Group, Settings, pass_settings


@click.group("roles", cls=Group)
def roles_group() -> None:
    """Create the roles viewer, operator, supervisor and admin, and limit roles to sites.

    What each of the four may do, 'machserial privileges' shows. Logins get it by being granted one of them.
    """


@roles_group.command()
@pass_settings
def create(settings: Settings) -> None:
    """Create missing roles of the four, and grant them their rights in this database."""
    _show(settings, "create_roles")


@roles_group.command("list")
@pass_settings
def list_limits(settings: Settings) -> None:
    """List roles that are limited to sites, with their sites."""
    _show(settings, "limited_roles")


@roles_group.command()
@click.argument("role")
@click.argument("site")
@pass_settings
def grant_site(settings: Settings, role: str, site: str) -> None:
    """Grant SITE to ROLE, which then sees its granted sites only."""
    _show(settings, "grant_site", role=role, site_id=site)


@roles_group.command()
@click.argument("role")
@click.argument("site")
@pass_settings
def revoke_site(settings: Settings, role: str, site: str) -> None:
    """Revoke SITE from ROLE. A limited role without sites sees none."""
    _show(settings, "revoke_site", role=role, site_id=site)


@roles_group.command()
@click.argument("role")
@pass_settings
def lift_limits(settings: Settings, role: str) -> None:
    """Let ROLE see all sites again."""
    with settings.connect() as connection:
        was_limited = call(connection, "lift_site_limits", role=role)[0]["lift_site_limits"]
    if settings.json:
        output.print_json({"role": role, "was_limited": was_limited})
    else:
        output.print_text(f"{role} is not limited to sites" + ("" if was_limited else ", and was not before"))


def _show(settings: Settings, function: str, **arguments: str) -> None:
    with settings.connect() as connection:
        rows: list[Row] = call(connection, function, **arguments)
    output.print_rows(rows, as_json=settings.json)
