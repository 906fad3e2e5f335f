"""Two cards of one person made one. Nothing that was posted changes: accounts go over with their entries as they are.

Which tables point at a card is asked of the metadata, so that those to come are not forgotten.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from flask_babel import gettext as _
from sqlalchemy import Table, event, func, inspect, select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import InstrumentedAttribute, Mapper, Session

from crm import clock
from crm.access.actors import Actor, require
from crm.access.models import Branch
from crm.access.scope import BranchScoped, current_scope
from crm.audit.models import AuditAction
from crm.audit.operations import record, transition
from crm.clients.models import CLIENT_MOVES, Client, ClientStatus
from crm.clients.operations import phone_kept_from_others, refuse_phone_of_another_payer
from crm.db import Model, db
from crm.errors import Conflict, DomainError, Forbidden
from crm.fields.queries import all_fields
from crm.ledger.models import Account, AccountKind, TransactionKind
from crm.ledger.operations import Cause, Line, post

# Columns that point at a card, or at one of its accounts, and stay as they are when it is merged.
STAYS: dict[str, str] = {
    "ledger_transaction.client_id": "what was posted never changes; whose it is the accounts of its entries say",
    "ledger_entry.account_id": "what was posted never changes; the emptied account keeps its history",
    "mailing_run_line.client_id": "the protocol of a run: what it did for which card",
    "contact_link.client_id": "links in letters sent long ago lead to the card theirs was merged into",
}

# Of these a client has one in a branch; of lessons one of each type, besides those of his subscriptions.
_SINGLE = frozenset({AccountKind.BASE, AccountKind.LESSONS})
# What is unique per client and two cards may both have: fn(kept, gone, by) makes one of the two before the rest goes
# over. Domains above the clients enter themselves.
BEFORE_MERGE: list[Callable[[Client, Client, Actor], None]] = []
# What is transferred in a way of its own from an account to be emptied: fn(account, into, kept, by). What is left then
# goes in one sum.
BEFORE_EMPTYING: list[Callable[[Account, Account, Client, Actor], None]] = []

TRIES = 40
PAUSE = 0.05  # seconds


@dataclass(frozen=True)
class AccountMove:
    """An account of the card to be merged. into: the kept card's own of that kind and branch, which takes the balance
    over by a transfer; None: the account itself goes over.
    """

    account: Account
    into: Account | None


@dataclass(frozen=True)
class Merge:
    """What a merge does. facts: what the kept card gets of what it lacks, by field; others: rows that go over besides
    the accounts and the family, by table; payer: who pays for the kept card after it, None: he himself.
    """

    kept: Client
    gone: Client
    facts: Mapping[str, Any]
    payer: Client | None
    family: Sequence[Client]
    accounts: Sequence[AccountMove]
    others: Mapping[str, int]


def references(target: type[Any]) -> Iterator[tuple[type[Any], InstrumentedAttribute[Any]]]:
    """(model, attribute) of every column that points at `target` and follows it in a merge."""
    tables = [mapper for mapper in Model.registry.mappers if isinstance(mapper.local_table, Table)]  # no mapped selects
    for mapper in sorted(tables, key=lambda mapper: str(mapper.local_table)):
        for column in mapper.local_table.columns:
            is_reference = any(key.column.table is target.__table__ for key in column.foreign_keys)
            if is_reference and str(column) not in STAYS:
                yield mapper.class_, getattr(mapper.class_, mapper.get_property_by_column(column).key)


def plan_merge(kept: Client, gone: Client, *, by: Actor) -> Merge:
    """What merge_clients() would do. Raises as it does, and writes nothing."""
    for card in (kept, gone):
        require(by, "client.merge", card)
    if kept is gone:
        raise DomainError("same_card", _("This is the same card; choose another one."))
    for card in (gone, kept):
        if card.merged_into_id is not None:
            raise Conflict("merged", _("The card “%(name)s” has been merged into another one.", name=card.shown_name))
    if kept.status is not ClientStatus.ACTIVE:
        raise DomainError("kept_archived", _("The card that stays is in the archive. Restore it first."))
    _refuse_unseen(gone)
    payer = None if kept.payer_id == gone.id else kept.payer
    family = [member for member in _rows(Client.payer_id, gone) if member is not kept]
    if family and kept.branch_id != gone.branch_id:
        raise DomainError(
            "family_elsewhere",
            _("“%(name)s” pays for others in another branch, where they stay: keep that card.", name=gone.shown_name),
        )
    others = {
        model.__tablename__: found
        for model, column in references(Client)
        if model not in {Client, Account} and (found := _count(column, gone))
    }
    accounts = _account_moves(kept, gone)
    if payer is not None and (others.keys() & {"bill", "payment"} or any(_is_money(move) for move in accounts)):
        raise DomainError(
            "kept_is_paid_for",
            _(
                "“%(name)s” is paid for by %(payer)s and cannot take over accounts, bills or payments: keep the other"
                " card.",
                name=kept.shown_name,
                payer=payer.shown_name,
            ),
        )
    return Merge(kept, gone, _facts(kept, gone, payer), payer, family, accounts, others)


def merge_clients(kept: Client, gone: Client, *, by: Actor) -> Merge:
    """Make `gone` a part of `kept`, for good. What points at it and may change points at `kept` afterwards, each row in
    the branch it was in; `gone` stays in the archive and leads to `kept`. The caller commits.

    Raises Conflict "merged" when one of them has been merged meanwhile, "busy" when others keep working with them;
    Forbidden when something of `gone` is out of sight; DomainError "same_card", "kept_archived", "family_elsewhere",
    "kept_is_paid_for", "phone_taken" when the kept card pays for itself from now on and its phone is another payer's.
    """
    for attempt in range(TRIES):
        try:
            with db.session.begin_nested():
                _lock(kept, gone)
                merge = plan_merge(kept, gone, by=by)
                _carry_out(merge, by=by)
            return merge
        except OperationalError as error:
            if getattr(error.orig, "sqlstate", None) != "55P03":  # lock_not_available
                raise
        if attempt < TRIES - 1:
            time.sleep(PAUSE)
    raise Conflict("busy", _("Somebody is working with one of these cards right now. Try again in a moment."))


def _lock(kept: Client, gone: Client) -> None:
    """Hold both cards, their families and all that is to move, or nothing: it waits for nobody, and so closes no circle
    of waits.

    The cards fully, so that rows which begin to point at one of them wait and are then refused by the guard below.
    """
    cards = select(Client).where((Client.id.in_([kept.id, gone.id])) | (Client.payer_id == gone.id))
    locked = cards.order_by(Client.id).with_for_update(nowait=True, of=Client)
    db.session.scalars(locked.execution_options(populate_existing=True)).all()
    for model, column in references(Client):
        if model is not Client:
            owners = [kept.id, gone.id] if model is Account else [gone.id]
            rows = select(model).where(column.in_(owners)).order_by(model.id)
            rows = rows.with_for_update(nowait=True, key_share=True, of=model)
            db.session.scalars(rows.execution_options(populate_existing=True)).all()


def _carry_out(merge: Merge, *, by: Actor) -> None:
    kept, gone = merge.kept, merge.gone
    if gone.status is ClientStatus.ACTIVE:
        transition(gone, CLIENT_MOVES, ClientStatus.ARCHIVED, by=by)  # its phone is free from here on
    gone.merged_into_id, gone.payer_id = kept.id, None
    phone = merge.facts.get("phone", kept.phone)
    with phone_kept_from_others(phone, kept):
        for name, value in merge.facts.items():
            setattr(kept, name, value)
        if merge.payer is None and kept.payer_id is not None:
            kept.payer_id = None
            refuse_phone_of_another_payer(kept)
    for member in merge.family:
        member.payer_id = kept.payer_id or kept.id
    for earlier in _rows(Client.merged_into_id, gone):
        earlier.merged_into_id = kept.id
    for join in BEFORE_MERGE:
        join(kept, gone, by)
    for move in merge.accounts:
        if move.into is not None:
            _empty(move.account, move.into, kept, by=by)
    for model, column in references(Client):
        if model is not Client:
            for row in _rows(column, gone):
                setattr(row, column.key, kept.id)
    db.session.flush()
    db.session.expire(kept, ["family", "payer"])
    db.session.expire(gone, ["family", "payer", "merged_into"])
    record(AuditAction.UPDATE, kept, {"merged_cards": [None, f"{gone.shown_name} #{gone.id}"]}, by=by)


def _empty(account: Account, into: Account, kept: Client, *, by: Actor) -> None:
    """Transfer the balance, a debt likewise, close the account, and let what points at it point at the other."""
    for carry in BEFORE_EMPTYING:
        carry(account, into, kept, by)
    if balance := account.balance:
        post(
            TransactionKind.TRANSFER,
            [Line(account, -balance), Line(into, balance)],
            branch_id=account.branch_id,
            by=by,
            key=f"merge:{account.id}:{into.id}",
            cause=Cause(client_id=kept.id),
            comment=_("Merging of two cards"),
        )
    account.closed_at = clock.now()
    for _model, column in references(Account):
        for row in _rows(column, account):
            setattr(row, column.key, into.id)
    db.session.flush()


def _rows(column: InstrumentedAttribute[Any], target: Any) -> Sequence[Any]:
    model = column.class_
    return db.session.scalars(select(model).where(column == target.id).order_by(model.id)).all()


def _count(column: InstrumentedAttribute[Any], target: Any) -> int:
    model = column.class_
    return db.session.scalar(select(func.count()).select_from(model).where(column == target.id)) or 0


def _account_moves(kept: Client, gone: Client) -> list[AccountMove]:
    own = {_place(account): account for account in _rows(Account.client_id, kept) if _place(account) is not None}
    return [AccountMove(account, own.get(_place(account))) for account in _rows(Account.client_id, gone)]


def _place(account: Account) -> tuple[Any, ...] | None:
    """What a client has one open account of; None where he may have several."""
    if account.is_closed or account.kind not in _SINGLE or account.subscription_id is not None:
        return None
    return account.branch_id, account.kind, account.lesson_type_id


def _is_money(move: AccountMove) -> bool:
    return move.account.kind is not AccountKind.LESSONS


def _refuse_unseen(gone: Client) -> None:
    """All of a card goes over or nothing: rows in branches out of sight would stay behind unnoticed."""
    scope = current_scope()
    for model, column in references(Client):
        if not issubclass(model, BranchScoped):
            continue
        branches = select(inspect(model).local_table.c.branch_id).where(column == gone.id).distinct()
        if any(not scope.covers(branch_id) for branch_id in db.session.connection().scalars(branches)):
            raise Forbidden(
                "merge_out_of_sight",
                _("“%(name)s” has accounts or other records in a branch you do not see.", name=gone.shown_name),
            )


def _facts(kept: Client, gone: Client, payer: Client | None) -> dict[str, Any]:
    """What the kept card lacks and the other one has."""
    names = ("surname", "patronymic", "email", "birth_date")
    found = {name: getattr(gone, name) for name in names if getattr(gone, name) and not getattr(kept, name)}
    if gone.discount and not kept.discount:
        found |= {"discount": gone.discount, "discount_reason": gone.discount_reason}
    if gone.comment and gone.comment not in kept.comment:
        found["comment"] = f"{kept.comment}\n{gone.comment}".strip()
    numbers = ((gone.phone, gone.phone_kind), (gone.extra_phone, gone.extra_phone_kind))
    phones = [(phone, kind) for phone, kind in numbers if phone and phone not in (kept.phone, kept.extra_phone)]
    if phones and not kept.phone and (payer is not None or _is_free(phones[0][0], besides=[kept.id, gone.id])):
        found["phone"], found["phone_kind"] = phones.pop(0)
    if phones and not kept.extra_phone:
        found["extra_phone"], found["extra_phone_kind"] = phones[0]
    if custom := _custom_facts(kept, gone):
        found["custom"] = {**kept.custom, **custom}
    return found


def _custom_facts(kept: Client, gone: Client) -> dict[str, Any]:
    """Values of fields the kept card's company has too, of the same type."""
    kinds = [
        {
            field.key: field.type
            for field in all_fields("client", {db.session.get_one(Branch, card.branch_id).company_id})
        }
        for card in (kept, gone)
    ]
    return {
        key: value
        for key, value in gone.custom.items()
        if key not in kept.custom and kinds[0].get(key) == kinds[1].get(key) is not None
    }


def _is_free(phone: str, *, besides: Sequence[int]) -> bool:
    """Whether no other active payer has it for his main phone."""
    held = select(Client.id).where(
        Client.phone == phone,
        Client.payer_id.is_(None),
        Client.status == ClientStatus.ACTIVE,
        Client.id.not_in(besides),
    )
    return db.session.scalar(held.limit(1)) is None


# --- rows made meanwhile --------------------------------------------------------------------------------------------


def _refuse_rows_of_merged(session: Session, _context: Any, _instances: Any) -> None:
    """A form opened before a merge and sent after it would leave its row behind, on a card nobody looks at.

    The lock waits for a merge under way, and a merge for the rows of those who came before it.
    """
    ids = {client_id for row in session.new for client_id in _clients_of(row)}
    if not ids:
        return
    # Beside the scope: a row may point at a card its writer does not see.
    cards = select(Client.__table__.c.merged_into_id).where(Client.__table__.c.id.in_(ids)).order_by(Client.id)
    merged: Collection[int | None] = (
        session.connection().scalars(cards.with_for_update(read=True, key_share=True)).all()
    )
    if any(into is not None for into in merged):
        raise Conflict("merged", _("This card has been merged into another one meanwhile. Open it again."))


def _clients_of(row: Any) -> Iterator[int]:
    """Ids of the cards a new row points at, by key or by object."""
    for key, is_object in _pointers(inspect(row).mapper):
        value = inspect(row).dict.get(key)
        if value is not None and (value := value.id if is_object else value) is not None:
            yield value


@cache
def _pointers(mapper: Mapper[Any]) -> tuple[tuple[str, bool], ...]:
    """Attributes of a mapped class by which it points at cards, and whether they hold the card itself."""
    keys = [column.key for owner, column in references(Client) if owner is mapper.class_]
    columns = {mapper.column_attrs[key].columns[0] for key in keys}
    objects = [rel.key for rel in mapper.relationships if not rel.uselist and columns & rel.local_columns]
    return (*((key, False) for key in keys), *((key, True) for key in objects))


def install_merge_guard(session_class: type[Session]) -> None:
    """Attach the listener, once per session class."""
    event.listen(session_class, "before_flush", _refuse_rows_of_merged)
