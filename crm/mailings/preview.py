"""«Кого коснётся»: what a mailing would do if it ran now. The run decides by the same functions; nothing is written.

Clients are looked at some hundreds at a time, and no more of them are kept than are asked for, however many there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any, Literal

from sqlalchemy import Select, func, select

from crm import clock
from crm.access.actors import Actor, require
from crm.clients.models import Client
from crm.contacts.models import Channel
from crm.db import db
from crm.ledger.models import Account
from crm.mailings.billing import Outlook, Planned, outlook
from crm.mailings.channels.sms import SmsLength, sms_length
from crm.mailings.models import MailingKind, MailingRule, MailingRun, MailingRunLine, RunResult
from crm.mailings.recipients import channels_to, recipients, told_to, way_to
from crm.mailings.selection import SelectionFacts, branches_of, cards, checked, drafted
from crm.mailings.tags import hidden_tags, render

# Clients looked at in the same few statements: of a whole mailing, and of a page.
BATCH = 500
# Clients a page looks at, at most, to find its lines, and those that are counted without being asked to.
LOOKED_AT = 2_000

Who = Literal["", "yes", "no"]


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
    """total: clients concerned; looked_at: how many of them, the first by their ids, the rest tells of. due, skipped:
    those who would get something, and who would get nothing; bills, amount: of the former.
    """

    total: int
    looked_at: int
    due: int
    skipped: int
    bills: int
    amount: Decimal

    @property
    def is_whole(self) -> bool:
        return self.looked_at >= self.total


@dataclass(frozen=True)
class PreviewPage:
    """Some lines in the order of the clients' ids. after: the id to go on from, None when these are the last."""

    lines: list[PreviewLine]
    after: int | None


@dataclass(frozen=True)
class Sample:
    """What the first who gets something would be sent. length: of an SMS."""

    client: Client
    channel: Channel
    subject: str
    body: str
    length: SmsLength | None


# The rule a client is written to by.
_Rules = Callable[[Client], MailingRule]


class DryRun:
    """A mailing looked at. It reads anew at each question: who is concerned may change between two."""

    def __init__(
        self, chosen: Select[int], look: Callable[[Sequence[int]], Iterator[PreviewLine]], rules: _Rules, by: Actor
    ):
        self._chosen, self._look, self._rules, self._by = chosen, look, rules, by

    def total(self) -> int:
        """Clients concerned."""
        return db.session.scalar(select(func.count()).select_from(self._chosen.subquery())) or 0

    def batches(self, size: int = BATCH, *, after: int = 0) -> Iterator[list[PreviewLine]]:
        """Lines of so many clients at a time, in the order of their ids; those of a client stand together."""
        for _ids, lines in self._looks(size, after=after):
            yield lines

    def lines(self) -> Iterator[PreviewLine]:
        """All of them, a batch at a time."""
        for batch in self.batches():
            yield from batch

    def counts(self, limit: int | None = LOOKED_AT) -> Counts:
        """limit: look at so many clients at most; None: at all of them."""
        looked_at = due = skipped = bills = 0
        amount = Decimal(0)
        for ids, lines in self._looks(BATCH):
            own = {line.client.id for line in lines if not line.reason}
            looked_at, due = looked_at + len(ids), due + len(own)
            skipped += len({line.client.id for line in lines} - own)
            asked = [line.amount for line in lines if line.amount is not None]
            bills, amount = bills + len(asked), sum(asked, amount)
            if limit is not None and looked_at >= limit:
                break
        total = self.total() if limit is not None and looked_at >= limit else looked_at
        return Counts(total, looked_at, due, skipped, bills, amount)

    def page(self, size: int, *, who: Who = "", after: int = 0) -> PreviewPage:
        """Lines of the clients beyond the id `after` until there are `size`, or LOOKED_AT clients have been looked at;
        a client's stand on one page.
        who: of those alone who would get something (yes), or nothing (no).
        """
        found, looked_at = list[PreviewLine](), 0
        for ids, lines in self._looks(size, after=after):
            for line in lines:
                if who and bool(line.reason) is not (who == "no"):
                    continue
                if len(found) >= size and line.client.id != found[-1].client.id:
                    return PreviewPage(found, found[-1].client.id)
                found.append(line)
            looked_at += len(ids)
            if looked_at >= LOOKED_AT and self._goes_on(ids[-1]):
                return PreviewPage(found, ids[-1])
        return PreviewPage(found, None)

    def sample(self, lines: Sequence[PreviewLine]) -> Sample | None:
        """The text for the first of these who gets one; None when none does. Not for texts that tell of a bill. Dots
        stand for what whoever looks is not shown.
        """
        line = next((line for line in lines if not line.reason and line.channel is not None), None)
        if line is None or line.channel is None:
            return None
        rule = self._rules(line.client)
        way, hidden = channels_to(rule)[line.channel], hidden_tags(self._by)
        subject, body = (
            render(text, client=line.client, branch=rule.branch, field=field, hidden=hidden)
            for text, field in zip(way.text, ("subject", "text"), strict=True)
        )
        is_letter = line.channel is Channel.EMAIL
        return Sample(
            line.client,
            line.channel,
            " ".join(subject.split()) if is_letter else "",
            body,
            sms_length(body) if line.channel is Channel.SMS else None,
        )

    def _looks(self, size: int, *, after: int = 0) -> Iterator[tuple[Sequence[int], list[PreviewLine]]]:
        query = self._chosen.order_by(Client.id).limit(size)
        while ids := db.session.scalars(query.where(Client.id > after)).all():
            yield ids, list(self._look(ids))
            after = ids[-1]

    def _goes_on(self, after: int) -> bool:
        return db.session.scalar(self._chosen.where(Client.id > after).limit(1)) is not None


def dry_run(rule: MailingRule, *, by: Actor) -> DryRun:
    """Who would get what if the rule ran at this moment, and who would not and why; nothing is written or locked. Of a
    message to a selection: who of it still waits.
    """
    require(by, "mailingrule.view", rule)
    planned = Planned.at(rule, clock.now())
    chosen = waiting_of(rule) if rule.is_selected else recipients(rule, planned.day)
    return DryRun(chosen, lambda ids: _lines(planned, ids), lambda _client: rule, by)


def dry_run_of_selection(facts: SelectionFacts, clients: Select[Any], *, by: Actor) -> DryRun:
    """The same of a message to clients chosen (SELECT of ids; see selection.cards()) that is yet to be made. Raises
    DomainError as selection.checked() does.
    """
    require(by, "mailingrule.create")
    facts, now = checked(facts, by=by), clock.now()
    rules = {branch.id: drafted(facts, branch, now=now) for branch, _number in branches_of(clients)}

    def look(ids: Sequence[int]) -> Iterator[PreviewLine]:
        found = _cards(ids)
        lines = dict[int, PreviewLine]()
        for branch_id, rule in rules.items():
            own = [card for card in found if card.branch_id == branch_id]
            lines |= {line.client.id: line for line in _of_cards(rule, rule.once_on or now.date(), own)}
        return iter([lines[card.id] for card in found if card.id in lines])

    return DryRun(cards(clients), look, lambda client: rules[client.branch_id], by)


def waiting_of(rule: MailingRule) -> Select[int]:
    """SELECT of the ids of those a message to a selection has yet to be written to."""
    waiting = (
        select(MailingRunLine.client_id)
        .join(MailingRun, MailingRun.id == MailingRunLine.run_id)
        .where(MailingRun.rule_id == rule.id, MailingRunLine.result == RunResult.WAITING)
    )
    return select(Client.id).where(Client.id.in_(waiting))


def _cards(ids: Sequence[int]) -> list[Client]:
    return list(db.session.scalars(select(Client).where(Client.id.in_(ids)).order_by(Client.id)))


def _lines(planned: Planned, ids: Sequence[int]) -> Iterator[PreviewLine]:
    if planned.rule.kind is not MailingKind.BILLS:
        yield from _of_cards(planned.rule, planned.day, _cards(ids))
        return
    views = outlook(planned, ids)
    ways = way_to(planned.rule, [view.client for view in views])
    for view in views:
        yield from _of_payer(view, ways[view.client.id])


def _of_cards(rule: MailingRule, day: date, cards: Sequence[Client]) -> Iterator[PreviewLine]:
    told, ways = told_to(rule, day, [card.id for card in cards]), way_to(rule, cards)
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
