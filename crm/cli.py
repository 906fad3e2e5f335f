"""Commands of `flask --app app`: thin wrappers over operations."""

from __future__ import annotations

import sys

import click
from flask import Flask
from flask.cli import AppGroup

from crm.access.actors import SYSTEM
from crm.access.models import Role
from crm.access.operations import create_user
from crm.access.scope import EVERYWHERE, scoped_to
from crm.db import transaction
from crm.errors import DomainError
from crm.ledger.queries import check_ledger

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
    problems = check_ledger()
    for problem in problems:
        click.echo(f"{problem.what}: {problem.id}: {problem.detail}")
    click.echo("ledger: clean" if not problems else f"ledger: {len(problems)} problems")
    if problems:
        sys.exit(1)


def register(app: Flask) -> None:
    app.cli.add_command(user_group)
    app.cli.add_command(ledger_group)
