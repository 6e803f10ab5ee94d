"""`pillarbox account`: accounts and their keys, for whoever has the machine; the API does the rest."""

from __future__ import annotations

import json
from collections.abc import Mapping

import click

from core.config import Settings

COLUMN = 26


@click.group()
def account() -> None:
    """Accounts and their keys."""


@account.command("create")
@click.option("--name", default="", help="A name to recognise the account by.")
@click.option("--json", "as_json", is_flag=True, help="Print the credentials as JSON.")
@click.pass_obj
def account_create(settings: Settings, name: str, as_json: bool) -> None:
    """Make an account with an API key and an SMTP login. They are shown now and never again."""
    from cli.setup import credentials, prepare
    from core.clock import system_clock
    from core.services.accounts import create_account

    database = prepare(settings)
    made = credentials(settings, create_account(database, name, system_clock()))
    database.close()
    _show(made, as_json)


@account.command("list")
@click.pass_obj
def account_list(settings: Settings) -> None:
    """List the accounts: id, day of creation, name."""
    from core.clock import to_rfc3339
    from core.services.accounts import list_accounts
    from core.store.db import Database

    database = Database(settings.database_location)
    for entry in list_accounts(database):
        click.echo(f"{entry.account_id}  {to_rfc3339(entry.created_ms)[:10]}  {entry.name}")
    database.close()


@account.command("pause")
@click.argument("account_id")
@click.option("--reason", required=True, help="What the customer reads.")
@click.pass_obj
def account_pause(settings: Settings, account_id: str, reason: str) -> None:
    """Hold all mail that an account sends; only `account resume` ends it, not the customer."""
    from core.clock import system_clock
    from core.services.pauses import pause_by_operator
    from core.store.db import Database

    database = Database(settings.database_location)
    click.echo(f"Paused {pause_by_operator(database, account_id, reason, system_clock()).because}")
    database.close()


@account.command("resume")
@click.argument("account_id")
@click.pass_obj
def account_resume(settings: Settings, account_id: str) -> None:
    """End the pause of an account, whoever has begun it, and let its mail go."""
    from core.clock import system_clock
    from core.services.pauses import PausePlace, resume
    from core.services.send_accounts import gateway_send_settings
    from core.store.db import Database

    database = Database(settings.database_location)
    defaults = gateway_send_settings(settings)
    resumed = resume(database, PausePlace(account_id), system_clock, defaults, is_operator=True)
    click.echo(f"{resumed.released} held recipients let go{', more follow' if resumed.is_partial else ''}.")
    database.close()


@account.command("keys")
@click.argument("account_id")
@click.pass_obj
def account_keys(settings: Settings, account_id: str) -> None:
    """List the keys and logins of an account: username, kind, whether it is active, scopes, name."""
    from core.services.credential_records import list_credentials
    from core.services.paging import PageRequest
    from core.store.db import Database

    database = Database(settings.database_location)
    request: PageRequest | None = PageRequest()
    while request is not None:
        page = list_credentials(database, account_id, request)
        for entry in page.entries:
            state = "active" if entry.is_active else "off"
            click.echo(f"{entry.username}  {entry.kind:4}  {state:6}  {','.join(sorted(entry.scopes))}  {entry.name}")
        request = PageRequest(cursor=page.next_cursor) if page.next_cursor else None
    database.close()


@account.command("add-key")
@click.argument("account_id")
@click.option("--kind", type=click.Choice(["api", "smtp"]), default="api", help="An API key (default) or SMTP login.")
@click.option("--name", default="", help="A name to recognise it by.")
@click.option("--scope", "scopes", multiple=True, help="`send`, `read` or `manage`; several times for several.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@click.pass_obj
def account_add_key(
    settings: Settings, account_id: str, kind: str, name: str, scopes: tuple[str, ...], as_json: bool
) -> None:
    """Make a key or login for an account, also when all others are lost. It is shown now and never again."""
    from core.clock import system_clock
    from core.services.accounts import CredentialKind
    from core.services.credential_records import CredentialDraft, create_credential
    from core.services.credentials import read_scope
    from core.store.db import Database

    wanted = frozenset(map(read_scope, scopes)) or None
    database = Database(settings.database_location)
    made, secret = create_credential(
        database, account_id, CredentialDraft(CredentialKind(kind), name, wanted), system_clock()
    )
    database.close()
    _show({"username": made.username, "secret": secret}, as_json)


@account.command("revoke-key")
@click.argument("account_id")
@click.argument("username")
@click.pass_obj
def account_revoke_key(settings: Settings, account_id: str, username: str) -> None:
    """Revoke a key or login for good."""
    from core.services.credential_records import delete_credential
    from core.store.db import Database

    database = Database(settings.database_location)
    delete_credential(database, account_id, username)
    database.close()
    click.echo(f"{username} opens nothing any more; open SMTP sessions end within a minute.")


def _show(made: Mapping[str, object], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(made, indent=2))
        return
    for key, value in made.items():
        click.echo(f"{key:{COLUMN}}{value}")
