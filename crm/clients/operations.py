"""Verbs on client cards."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from typing import Any, TypedDict, Unpack

from flask_babel import gettext as _
from sqlalchemy import select, true
from sqlalchemy.exc import IntegrityError

from crm import clock
from crm.access.actors import Actor, require
from crm.access.models import Branch
from crm.access.operations import normalise_email
from crm.access.scope import current_scope
from crm.audit.bulk import Change, Refusal, change_many
from crm.audit.models import AuditAction
from crm.audit.operations import transition
from crm.clients.models import CLIENT_MOVES, Client, ClientKind, ClientStatus, PhoneKind
from crm.db import db
from crm.errors import DomainError, Forbidden, NothingToDo
from crm.fields.operations import custom_change, set_custom
from crm.fields.queries import Definitions
from crm.phones import format_phone, parse_phone
from crm.protocol import ProtocolLine

# What becomes of cards that have been archived: fn(ids, by=). Domains above the clients enter themselves.
AFTER_ARCHIVE: list[Callable[..., None]] = []


class ClientFacts(TypedDict, total=False):
    """What staff fill in of a card; names, phones and e-mail in any spelling. custom: values of the company's own
    fields, by key. Facts left out stay as they are; of a new card they are empty.
    """

    name: str
    surname: str
    patronymic: str
    kind: ClientKind
    phone: str
    phone_kind: PhoneKind
    extra_phone: str
    extra_phone_kind: PhoneKind
    email: str
    birth_date: date | None
    comment: str
    custom: Mapping[str, Any]


def create_client(*, branch: Branch, by: Actor, payer: Client | None = None, **facts: Unpack[ClientFacts]) -> Client:
    """Add a person's card. Raises DomainError beside the field. The caller commits."""
    require(by, "client.create")
    client = new_client(branch, payer, facts)
    refuse_phone_of_another_payer(client)
    with phone_kept_from_others(client.phone, client):
        db.session.add(client)
    return client


def new_client(
    branch: Branch, payer: Client | None, facts: ClientFacts, definitions: Definitions | None = None
) -> Client:
    """A checked card that is not in the session yet; whether its phone is another payer's has not been asked."""
    if not current_scope().covers(branch.id):
        raise Forbidden("foreign_branch", _("This belongs to another branch."), "branch")
    check_payer(payer, branch)
    client = Client(branch_id=branch.id, created_at=clock.now(), payer_id=payer.id if payer else None)
    set_facts(client, {"name": "", **facts}, definitions)
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
        raise DomainError(
            "payer_is_paid_for", _("%(name)s has a payer and cannot pay for others.", name=payer.shown_name)
        )
    if payer.status is not ClientStatus.ACTIVE:
        raise DomainError("payer_archived", _("The payer's card is in the archive. Restore it first."))


def edit_client(client: Client, *, by: Actor, **facts: Unpack[ClientFacts]) -> Client:
    """Change a card's data. Raises DomainError beside the field. The caller commits."""
    require(by, "client.edit", client)
    phone = parse_phone(facts["phone"], field="phone") if "phone" in facts else None
    with phone_kept_from_others(phone, client):
        set_facts(client, facts)
        if phone:
            refuse_phone_of_another_payer(client)
    return client


def set_facts(client: Client, facts: ClientFacts, definitions: Definitions | None = None) -> None:
    """Check and set what is given. definitions: the company's own fields, for who sets many cards."""
    for name, value in facts.items():
        if name == "custom":
            set_custom(client, facts["custom"], definitions)
        else:
            setattr(client, name, _READ[name](value, client))


def _read_name(text: str, _client: Client) -> str:
    if not (name := " ".join(text.split())):
        raise DomainError("name_empty", _("Enter the name."), "name")
    return name


def _read_birth_date(value: date | None, client: Client) -> date | None:
    if value is not None and not date(1900, 1, 1) <= value <= clock.today(db.session.get_one(Branch, client.branch_id)):
        raise DomainError(
            "birth_date_invalid", _("The date of birth cannot be in the future or before 1900."), "birth_date"
        )
    return value


_READ: dict[str, Callable[[Any, Client], Any]] = {
    "name": _read_name,
    "surname": lambda text, _client: " ".join(text.split()),
    "patronymic": lambda text, _client: " ".join(text.split()),
    "kind": lambda kind, _client: kind,
    "phone": lambda text, _client: parse_phone(text, field="phone"),
    "phone_kind": lambda kind, _client: kind,
    "extra_phone": lambda text, _client: parse_phone(text, field="extra_phone"),
    "extra_phone_kind": lambda kind, _client: kind,
    "email": lambda text, _client: normalise_email(text, field="email") if text.strip() else None,
    "birth_date": _read_birth_date,
    "comment": lambda text, _client: text.strip(),
}


@contextlib.contextmanager
def phone_kept_from_others(phone: str | None, client: Client) -> Iterator[None]:
    """Write in this block what makes `phone` the client's: of two desks at once the database refuses the second."""
    try:
        with db.session.begin_nested():
            yield
            db.session.flush()
    except IntegrityError:
        if phone:
            _refuse_taken_phone(phone, client)  # who took it has committed by now
        raise


def refuse_phone_of_another_payer(client: Client) -> None:
    """Raise DomainError "phone_taken" beside the field; a card that is paid for may share a phone."""
    if client.phone and client.is_payer:
        _refuse_taken_phone(client.phone, client)


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
                name=others[0].shown_name,
            ),
            "phone",
        )


def archive_client(client: Client, *, by: Actor) -> Client:
    """Take a card out of work. Raises Conflict when it is archived already. The caller commits."""
    require(by, "client.archive", client)
    transition(client, CLIENT_MOVES, ClientStatus.ARCHIVED, by=by)
    _follow_archiving([client.id], by)
    return client


def archive_clients(ids: Sequence[int], *, by: Actor) -> list[ProtocolLine]:
    """Take cards out of work; one that is archived already is skipped. One line per id, in the order given. The caller
    commits.
    """
    lines = change_many(archiving_clients(by=by), ids, by=by)
    _follow_archiving([line.id for line in lines if line.is_done], by)
    return lines


def _follow_archiving(ids: Sequence[int], by: Actor) -> None:
    for follow in AFTER_ARCHIVE if ids else ():
        follow(ids, by=by)


def archiving_clients(*, by: Actor) -> Change:
    """What archive_clients() does and whom it skips."""
    require(by, "client.archive")
    return Change(
        Client,
        {"status": ClientStatus.ARCHIVED},
        (),
        _LABEL,
        action=AuditAction.TRANSITION,
        is_kept=False,
        so_already=_("The card is in the archive already."),
    )


def changing_clients(values: Mapping[str, Any], *, by: Actor) -> Change:
    """The change of many cards' `comment`, `birth_date`, `kind` and `custom.<key>`; the day is not later than today
    where the client is.
    """
    require(by, "client.edit")
    own, refusals = custom_change(Client, values)
    if foreign := set(values) - {"comment", "birth_date", "kind", *own}:
        raise ValueError(f"cards are not changed in {', '.join(sorted(foreign))}")
    if (birth_date := values.get("birth_date")) is not None:
        ahead = [branch.id for branch in db.session.scalars(select(Branch)) if birth_date > clock.today(branch)]
        is_wrong = Client.branch_id.in_(ahead) if birth_date.year >= 1900 else true()
        text = _("The date of birth cannot be in the future or before 1900.")
        refusals.append(Refusal(is_wrong, text, is_of_value=True))
    return Change(Client, {**values, **own}, refusals, _LABEL)


_LABEL = ((Client.name,), str)


def restore_client(client: Client, *, by: Actor) -> Client:
    """Bring an archived card back. The caller commits.

    Raises DomainError "phone_taken" when its phone has become another payer's, "merged" for a card that is a part of
    another one now, NothingToDo when it is active already.
    """
    require(by, "client.archive", client)
    if client.merged_into_id is not None:
        raise DomainError("merged", _("This card has been merged into another one and cannot be restored."))
    if client.status is ClientStatus.ACTIVE:
        raise NothingToDo("active_already", _("The card is not in the archive."))
    phone = client.phone if client.is_payer else None
    if phone:
        _refuse_taken_phone(phone, client)
    with phone_kept_from_others(phone, client):
        return transition(client, CLIENT_MOVES, ClientStatus.ACTIVE, by=by)
