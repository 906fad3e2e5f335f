"""Verbs on client cards."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import date

from flask_babel import gettext as _
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from crm import clock
from crm.access.actors import Actor, require
from crm.access.models import Branch
from crm.access.operations import normalise_email
from crm.access.scope import current_scope
from crm.audit.operations import transition
from crm.clients.models import CLIENT_MOVES, Client, ClientStatus
from crm.db import db
from crm.errors import DomainError, Forbidden
from crm.phones import format_phone, parse_phone


def create_client(
    *,
    branch: Branch,
    name: str,
    by: Actor,
    phone: str = "",
    extra_phone: str = "",
    email: str = "",
    birth_date: date | None = None,
    comment: str = "",
    payer: Client | None = None,
) -> Client:
    """Add a person's card. Phones and e-mail in any spelling. The caller commits.

    Raises DomainError beside the field.
    """
    require(by, "client.create")
    if not current_scope().covers(branch.id):
        raise Forbidden("foreign_branch", _("This belongs to another branch."), "branch")
    check_payer(payer, branch)
    client = Client(branch_id=branch.id, created_at=clock.now(), payer_id=payer.id if payer else None)
    fill_client(
        client, name=name, phone=phone, extra_phone=extra_phone, email=email, birth_date=birth_date, comment=comment
    )
    with _phone_kept_from_others(client.phone, client):
        db.session.add(client)
    return client


def check_payer(payer: Client | None, branch: Branch) -> None:
    """Refuse a card that cannot pay for a new one in `branch`: a family is in one branch, its payer pays for himself
    and is active.
    """
    if payer is None:
        return
    if payer.branch_id != branch.id:
        raise DomainError("payer_elsewhere", _("The payer's card is in another branch."), "branch")
    if not payer.is_payer:
        raise DomainError("payer_is_paid_for", _("%(name)s has a payer and cannot pay for others.", name=payer.name))
    if payer.status is not ClientStatus.ACTIVE:
        raise DomainError("payer_archived", _("The payer's card is in the archive. Restore it first."))


def edit_client(
    client: Client,
    *,
    by: Actor,
    name: str,
    phone: str,
    extra_phone: str,
    email: str,
    birth_date: date | None,
    comment: str,
) -> Client:
    """Change a card's data. Raises DomainError beside the field. The caller commits."""
    require(by, "client.edit", client)
    with _phone_kept_from_others(parse_phone(phone, field="phone"), client):
        fill_client(
            client, name=name, phone=phone, extra_phone=extra_phone, email=email, birth_date=birth_date, comment=comment
        )
    return client


def fill_client(
    client: Client,
    *,
    name: str,
    phone: str,
    extra_phone: str,
    email: str,
    birth_date: date | None,
    comment: str,
) -> None:
    """Check and set the editable fields."""
    set_fields(
        client, name=name, phone=phone, extra_phone=extra_phone, email=email, birth_date=birth_date, comment=comment
    )
    if client.phone and client.payer_id is None:
        _refuse_taken_phone(client.phone, client)


def set_fields(
    client: Client,
    *,
    name: str,
    phone: str,
    extra_phone: str,
    email: str,
    birth_date: date | None,
    comment: str,
) -> None:
    """What fill_client() does but for the question whether the phone is another payer's, which asks the database."""
    name = " ".join(name.split())
    if not name:
        raise DomainError("name_empty", _("Enter the name."), "name")
    if birth_date is not None and not date(1900, 1, 1) <= birth_date <= _today_of(client):
        raise DomainError(
            "birth_date_invalid", _("The date of birth cannot be in the future or before 1900."), "birth_date"
        )
    client.name = name
    client.phone = parse_phone(phone, field="phone")
    client.extra_phone = parse_phone(extra_phone, field="extra_phone")
    client.email = normalise_email(email, field="email") if email.strip() else None
    client.birth_date = birth_date
    client.comment = comment.strip()


def _today_of(client: Client) -> date:
    return clock.today(db.session.get_one(Branch, client.branch_id))


@contextlib.contextmanager
def _phone_kept_from_others(phone: str | None, client: Client) -> Iterator[None]:
    """Write in this block what makes `phone` the client's: of two desks at once the database refuses the second."""
    try:
        with db.session.begin_nested():
            yield
            db.session.flush()
    except IntegrityError:
        if phone:
            _refuse_taken_phone(phone, client)  # who took it has committed by now
        raise


def _refuse_taken_phone(phone: str, client: Client) -> None:
    """One payer per main phone among active cards; within a family the number may repeat."""
    with db.session.no_autoflush:
        query = select(Client).where(
            Client.phone == phone, Client.payer_id.is_(None), Client.status == ClientStatus.ACTIVE
        )
        others = [other for other in db.session.scalars(query) if other is not client]
    if others:
        raise DomainError(
            "phone_taken",
            _(
                "%(phone)s already belongs to the client %(name)s.",
                phone=format_phone(phone),
                name=others[0].name,
            ),
            "phone",
        )


def archive_client(client: Client, *, by: Actor) -> Client:
    """Take a card out of work. Raises Conflict when it is archived already. The caller commits."""
    require(by, "client.archive", client)
    return transition(client, CLIENT_MOVES, ClientStatus.ARCHIVED, by=by)


def restore_client(client: Client, *, by: Actor) -> Client:
    """Bring an archived card back. The caller commits.

    Raises DomainError "phone_taken" when its phone has become another payer's, Conflict when it is active already.
    """
    require(by, "client.archive", client)
    phone = client.phone if client.is_payer else None
    if phone:
        _refuse_taken_phone(phone, client)
    with _phone_kept_from_others(phone, client):
        return transition(client, CLIENT_MOVES, ClientStatus.ACTIVE, by=by)
