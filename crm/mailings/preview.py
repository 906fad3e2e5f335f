"""«Кого коснётся»: what a rule would do if it ran now. The run decides by the same functions; nothing is written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal

from sqlalchemy import select

from crm import clock
from crm.access.actors import Actor, require
from crm.clients.models import Client
from crm.contacts.models import Channel
from crm.db import db
from crm.ledger.models import Account
from crm.mailings.billing import Outlook, Planned, outlook
from crm.mailings.models import MailingKind, MailingRule
from crm.mailings.recipients import recipients, told_to, way_to

# Clients looked at in the same few statements.
BATCH = 500


@dataclass(frozen=True)
class PreviewLine:
    """A client and one account he would be billed for, or a client alone where the rule bills nobody. reason: why he
    gets nothing, empty when he does. amount, channel, recipient: where he does.
    """

    client: Client
    account: Account | None = None
    amount: Decimal | None = None
    channel: Channel | None = None
    recipient: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Counts:
    """due, skipped: clients that would get something, and that would get nothing; bills, amount: of the former."""

    due: int
    skipped: int
    bills: int
    amount: Decimal


@dataclass(frozen=True)
class Preview:
    lines: list[PreviewLine]
    counts: Counts


def preview_run(rule: MailingRule, *, by: Actor) -> Preview:
    """Who would get what if the rule ran at this moment, and who would not and why; nothing is written or locked."""
    require(by, "mailingrule.view", rule)
    planned = Planned.at(rule, clock.now())
    ids = db.session.scalars(recipients(rule, planned.day).order_by(Client.id)).all()
    lines = [line for at in range(0, len(ids), BATCH) for line in _lines(planned, ids[at : at + BATCH])]
    due = {line.client.id for line in lines if not line.reason}
    bills = [line.amount for line in lines if line.amount is not None]
    skipped = {line.client.id for line in lines} - due
    return Preview(lines, Counts(len(due), len(skipped), len(bills), sum(bills, Decimal(0))))


def _lines(planned: Planned, ids: Sequence[int]) -> Iterator[PreviewLine]:
    if planned.rule.kind is MailingKind.BILLS:
        views = outlook(planned, ids)
        ways = way_to(planned.rule, [view.client for view in views])
        for view in views:
            yield from _of_payer(view, ways[view.client.id])
        return
    cards = list(db.session.scalars(select(Client).where(Client.id.in_(ids)).order_by(Client.id)))
    told, ways = told_to(planned.rule, planned.day, ids), way_to(planned.rule, cards)
    for card in cards:
        way, debt = ways[card.id], told.get(card.id, {}).get("debt")
        if isinstance(way, str):
            yield PreviewLine(card, reason=_sentence(way))
        else:
            yield PreviewLine(card, amount=debt, channel=way[0], recipient=way[1])


def _of_payer(view: Outlook, way: tuple[Channel, str] | str) -> Iterator[PreviewLine]:
    if not view.parts:
        yield PreviewLine(view.client, reason=view.reason)
    for part in view.parts:
        if part.reason or part.draft is None:
            yield PreviewLine(view.client, part.account, reason=part.reason)
        elif isinstance(way, str):
            yield PreviewLine(view.client, part.account, reason=_sentence(way))
        else:
            yield PreviewLine(view.client, part.account, part.draft.amount, way[0], way[1])


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")
