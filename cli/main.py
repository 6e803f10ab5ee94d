"""The command line.

Each command imports what it needs when it runs: a process that loads the parts of the others too takes half a
second longer to start and keeps 20 to 50 MB more for as long as it lives.
"""

from __future__ import annotations

import re
import sys
from dataclasses import fields

import click

from cli.account import account
from core.config import Settings, load_settings
from core.errors import PillarboxError
from core.logs import configure_logging
from core.setting_values import DOC_KEY, ENV_KEY

HIDDEN_PASSWORD = "***"  # noqa: S105 (what is shown instead of one)
_IN_USERINFO = re.compile(r"(://[^:/?#@]*:).*@", re.DOTALL)
_IN_QUERY = re.compile(r"([?&][a-z_-]*(?:password|secret|token|key)[a-z_-]*=)[^&]*", re.IGNORECASE)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pillarbox", prog_name="pillarbox")
@click.pass_context
def cli(context: click.Context) -> None:
    """Pillarbox: a gateway between email and HTTP. Settings come from the environment, see `pillarbox config`."""
    context.obj = load_settings()
    configure_logging(context.obj.log_level)


@cli.command()
@click.pass_obj
def up(settings: Settings) -> None:
    """Run it all in the foreground: receiver, submission, web, workers, scheduler, and Redis where none is given."""
    from cli.up import run_everything

    run_everything(settings)


@cli.command()
@click.pass_obj
def smtp(settings: Settings) -> None:
    """Run one receiver; several may share the port."""
    from cli.file_limit import raise_open_file_limit
    from core.ending import end_without_waiting_for_threads
    from core.store.db import Database
    from inbound.smtp.server import serve
    from workers.doorbell import Doorbell

    raise_open_file_limit()
    bell = Doorbell(settings.redis_location)
    serve(settings, Database(settings.database_location), bell.ring)
    end_without_waiting_for_threads()


@cli.command()
@click.pass_obj
def submission(settings: Settings) -> None:
    """Run the listener to which customers submit mail by SMTP; several may share its ports."""
    from cli.file_limit import raise_open_file_limit
    from core.clock import system_clock
    from core.ending import end_without_waiting_for_threads
    from core.store.blobs import open_blobs
    from core.store.db import Database
    from inbound.scanning.sent_mail import open_sent_mail_check
    from inbound.submission.server import serve
    from outbound.accepting import SendAcceptor
    from workers.doorbell import Doorbell

    raise_open_file_limit()
    database = Database(settings.database_location)
    spam_check = open_sent_mail_check(settings, system_clock)
    acceptor = SendAcceptor(settings, database, open_blobs(settings.blob_location), system_clock, spam_check)
    serve(settings, database, acceptor.submit, Doorbell(settings.redis_location).ring)
    end_without_waiting_for_threads()


@cli.command()
@click.pass_obj
def web(settings: Settings) -> None:
    """Run the API."""
    from cli.file_limit import raise_open_file_limit
    from cli.listening import check_ports
    from web.server import serve
    from workers.doorbell import Doorbell

    raise_open_file_limit()
    check_ports([("PILLARBOX_HTTP", settings.http)])
    serve(settings, Doorbell)


@cli.command()
@click.pass_obj
def worker(settings: Settings) -> None:
    """Run one worker."""
    from cli.file_limit import raise_open_file_limit
    from core.store.db import Database
    from workers.worker import run_worker

    raise_open_file_limit()
    run_worker(settings, Database(settings.database_location))


@cli.command()
@click.pass_obj
def scheduler(settings: Settings) -> None:
    """Run the scheduler of periodic jobs; one is enough, more do no harm."""
    from core.store.db import Database
    from workers.scheduler import run_scheduler

    run_scheduler(settings, Database(settings.database_location))


@cli.command()
@click.pass_obj
def migrate(settings: Settings) -> None:
    """Prepare the data folder and bring the database schema up to date."""
    from cli.setup import prepare

    prepare(settings).close()


@cli.command()
@click.option("--rewrite", is_flag=True, help="Then write the SQLite file anew, without its free pages; stop all else.")
@click.pass_obj
def purge(settings: Settings, rewrite: bool) -> None:
    """Remove now what has outlived its age, and what is left over; the scheduler does so every few minutes."""
    from core.clock import system_clock
    from core.store.db import Database
    from core.store.reclaim import rewrite as rewrite_file
    from workers.housekeeping import Household

    database = Database(settings.database_location)
    done = Household(settings, database, system_clock).tidy_all()
    if rewrite:
        rewrite_file(database)
    database.close()
    for name, count in done.items():
        click.echo(f"{name:20}{count}")
    if not done:
        click.echo("There was nothing to remove.")


@cli.command()
@click.option("--markdown", is_flag=True, help="Print the reference page docs/settings.md.")
@click.pass_obj
def config(settings: Settings, markdown: bool) -> None:
    """List every setting with its value, default and meaning."""
    if markdown:
        click.echo(settings_page())
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_edge=False)
    for column in ("Setting", "Value", "Default", "Meaning"):
        table.add_column(column, overflow="fold")
    for entry in fields(Settings):
        value = _shown(getattr(settings, entry.name))
        table.add_row(entry.metadata[ENV_KEY], value, _shown(entry.default), entry.metadata[DOC_KEY])
    Console(width=None if sys.stdout.isatty() else 200, markup=False, highlight=False).print(table)


cli.add_command(account)


def settings_page() -> str:
    """`docs/settings.md`, generated so that it cannot disagree with the code."""
    lines = [
        "# Settings",
        "",
        "Read from the environment by every process. `pillarbox config` prints this list with the values in force.",
        "",
        "| variable | default | meaning |",
        "|---|---|---|",
    ]
    for entry in fields(Settings):
        default = _shown(entry.default)
        shown = f"`{default}`" if default else ""
        lines.append(f"| `{entry.metadata[ENV_KEY]}` | {shown} | {entry.metadata[DOC_KEY]} |")
    return "\n".join(lines)


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return _without_password(str(value))


def _without_password(text: str) -> str:
    """What people paste into a chat must not hold the password of their database: wherever in a URL it stands, and
    also where an unescaped `/`, `#` or `@` in it makes the URL another one."""
    return _IN_USERINFO.sub(rf"\1{HIDDEN_PASSWORD}@", _IN_QUERY.sub(rf"\1{HIDDEN_PASSWORD}", text))


def main() -> None:
    """The entry point: what we raise on purpose is shown as one line, not a traceback."""
    try:
        cli()
    except PillarboxError as error:
        click.echo(f"pillarbox: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
