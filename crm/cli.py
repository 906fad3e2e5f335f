"""Commands of `flask --app app`: thin wrappers over operations."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
from flask import Flask
from flask.cli import AppGroup, with_appcontext
from flask_babel import gettext as _
from sqlalchemy.exc import OperationalError, ProgrammingError

from crm.access.actors import SYSTEM
from crm.access.models import Role
from crm.access.operations import create_user
from crm.access.scope import EVERYWHERE, scoped_to
from crm.db import transaction
from crm.demo import load_demo
from crm.errors import DomainError
from crm.exchange.importers import IMPORTERS
from crm.exchange.importing import apply_import, dry_run, report_lines
from crm.ledger.queries import check_ledger
from crm.ledger.turnover import keep_turnover, sum_up_anew

user_group = AppGroup("user", help="Staff users.")
ledger_group = AppGroup("ledger", help="The money ledger.")


@user_group.command("create")
@click.argument("email")
@click.option("--name", required=True)
@click.option("--role", type=click.Choice([role.value for role in Role]), default=Role.OWNER.value, show_default=True)
@click.password_option()
def create_user_command(email: str, name: str, role: str, password: str) -> None:
    """Add a staff user."""
    try:
        with scoped_to(EVERYWHERE), transaction():
            create_user(email=email, name=name, password=password, role=Role(role), by=SYSTEM)  # type: ignore[call-arg]
    except DomainError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"{email}: {role}")


@ledger_group.command("check")
def check_ledger_command() -> None:
    """Prove that every transaction balances and every cached balance equals its entries."""
    with scoped_to(EVERYWHERE):
        problems = check_ledger()
    for problem in problems:
        click.echo(f"{problem.what}: {problem.id}: {problem.detail}")
    click.echo("ledger: clean" if not problems else f"ledger: {len(problems)} problems")
    if problems:
        sys.exit(1)


@ledger_group.command("sum")
@click.option("--anew", is_flag=True, help="Forget all sums first.")
def sum_ledger_command(anew: bool) -> None:
    """Bring the sums of client accounts up to the last entry; the scheduler does so by itself."""
    total = 0
    with scoped_to(EVERYWHERE):
        if anew:
            with transaction():
                sum_up_anew()
        while summed := keep_turnover(tail=0):
            total += summed
    click.echo(f"ledger: {total} entry ids summed")


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--entity", type=click.Choice(sorted(IMPORTERS)), required=True, help="What a line of the file is.")
@click.option("--apply", "is_applied", is_flag=True, help="Write the good lines; without it nothing is changed.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures alone, as JSON.")
@with_appcontext
def import_command(file: Path, entity: str, is_applied: bool, as_json: bool) -> None:
    """Read an Excel or CSV file, say what it holds, and bring it in with --apply."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise click.ClickException(f"{file}: {error.strerror}") from None
    try:
        with scoped_to(EVERYWHERE), transaction():
            importer = IMPORTERS[entity]()
            if is_applied:
                report = apply_import(importer, content, file_name=file.name, by=SYSTEM)
            else:
                report = dry_run(importer, content, by=SYSTEM)
    except DomainError as error:
        raise click.ClickException(str(error)) from None
    except (OperationalError, ProgrammingError) as error:
        raise click.ClickException(f"{_('The database cannot be used')}: {str(error.orig).splitlines()[0]}") from None
    click.echo(json.dumps(report.figures, indent=1) if as_json else "\n".join(report_lines(report)))


@click.command("demo")
@click.option(
    "--clients", type=click.IntRange(min=0), default=60, show_default=True, help="Families and single clients."
)
@click.option("--bills", type=click.IntRange(min=0), default=60, show_default=True, help="Bills over the last months.")
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed makes the same network.")
@with_appcontext
def demo_command(clients: int, bills: int, seed: int) -> None:
    """Fill an empty database with a made-up network; more than a thousand clients or bills are loaded in bulk."""
    try:
        made = load_demo(clients=clients, bills=bills, seed=seed)
    except DomainError as error:
        raise click.ClickException(str(error)) from None
    click.echo(_("Demo data: %(clients)s clients, %(bills)s bills.", clients=made.clients, bills=made.bills))


def register(app: Flask) -> None:
    app.cli.add_command(user_group)
    app.cli.add_command(ledger_group)
    app.cli.add_command(import_command)
    app.cli.add_command(demo_command)
