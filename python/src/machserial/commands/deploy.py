"""machserial deploy"""

from __future__ import annotations

from dataclasses import asdict

import click

from machserial import output
from machserial.operations import deployment, locking
from machserial.options import Command, Settings, pass_settings


@click.command(cls=Command)
@click.option("--plain", is_flag=True, help="Install plain SQL even where the extension could be created.")
@pass_settings
def deploy(settings: Settings, plain: bool) -> None:
    """Create machserial in the database, or bring it up to this version.

    Creates the extension where the server has its files and lets you; else installs the same code as plain SQL.
    Then runs the migrations that are pending. All of it is one transaction, and it can be repeated. It waits
    half a second at most for a lock, and tries again a few times.
    """
    done = locking.patiently(settings.connect, lambda connection: deployment.deploy(connection, plain=plain))
    if settings.json:
        output.print_json(asdict(done))
        return
    output.print_text(sentence(done))


def sentence(done: deployment.Deployment) -> str:
    """What a deployment did, for people."""
    if done.version_before is None:
        what = f"machserial {done.version} is installed"
    elif done.version_before == done.version:
        what = f"machserial {done.version} was there already"
    else:
        what = f"machserial is updated from {done.version_before} to {done.version}"
    migrations = "no migration was pending" if done.migrations == 0 else f"migrations run: {done.migrations}"
    return f"{what} as {done.method} ({done.reason}); {migrations}."
