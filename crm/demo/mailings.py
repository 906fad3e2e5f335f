"""How the small network writes to its clients: templates, rules of every kind, runs that are over, messages over every
channel with what became of them, and what the clients have said of it. Nothing leaves the machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime, time, timedelta
from decimal import Decimal
from itertools import cycle

from sqlalchemy import Select, select

from crm import clock
from crm.access.actors import SYSTEM
from crm.access.models import Branch
from crm.clients.models import Client
from crm.contacts.models import Channel, MessageKind
from crm.contacts.operations import choose, contact_url, link_contact
from crm.db import db
from crm.demo.events import Family, Story
from crm.mailings.channels.base import Fate, Outcome
from crm.mailings.channels.sms import sms_length
from crm.mailings.delivery import begin_sending, move_message, settle_message, take_messages
from crm.mailings.models import (
    BilledAccounts,
    BillingMethod,
    MailingKind,
    MailingRule,
    MessageStatus,
    Periodicity,
    PeriodType,
    Provider,
    ProviderKind,
    Template,
    Term,
)
from crm.mailings.operations import send_message_to
from crm.mailings.providers import ProviderFacts, save_provider
from crm.mailings.rules import RuleFacts, Way, save_rule
from crm.mailings.running import execute_run
from crm.mailings.runs import run_now
from crm.mailings.selection import SelectionFacts, WrittenWay, mail_selection
from crm.mailings.templates import save_template

BEGUN_DAYS_AGO = 30  # when the rules were made
SMS_PRICE = Decimal("4.30")  # a part
WHATSAPP_PRICE = Decimal("1.90")

# (name, subject of a letter or None for a short text, body), by what the rules below call it.
_TEXTS: dict[str, tuple[str, str | None, str]] = {
    "debt letter": (
        "Просим пополнить счёт",
        "Пожалуйста, пополните счёт",
        "Здравствуйте, {customer.name}!\n\nНа вашем счёте не хватает {debt.amount} ₽. Пожалуйста, пополните его до "
        "следующего занятия.\nЕсли вы уже заплатили, просто не обращайте внимания на это письмо.\n\n"
        "{branch.name}, {branch.phone}",
    ),
    "debt sms": (
        "Просим пополнить счёт (SMS)",
        None,
        "{branch.name}: на вашем счёте не хватает {debt.amount} р. Пожалуйста, пополните его.",
    ),
    "ends letter": (
        "Конец абонемента",
        "Ваш абонемент скоро закончится",
        "Здравствуйте, {customer.name}!\n\nАбонемент «{subscription.name}» действует до {subscription.end_date}, "
        "осталось занятий: {subscription.lessons_left}.\nБудем рады видеть вас и дальше: продлить его можно у "
        "администратора.\n\n{branch.name}, {branch.phone}",
    ),
    "ends sms": (
        "Конец абонемента (SMS)",
        None,
        "{branch.name}: абонемент «{subscription.name}» действует до {subscription.end_date}. Ждём вас снова!",
    ),
    "lesson sms": (
        "Завтра занятие (SMS)",
        None,
        "Ждём вас {lesson.date} в {lesson.time}: {lesson.subject}. {branch.name}",
    ),
    "birthday letter": (
        "С днём рождения",
        "С днём рождения!",
        "{customer.name}, с днём рождения!\n\nЖелаем радости, открытий и интересных занятий.\n\nВаш {company.name}",
    ),
}
_NEWS = (
    "Здравствуйте, {customer.name}!\n\nВ субботу в 12:00 мы открываем двери для друзей: мастер-классы, чай и "
    "знакомство с преподавателями. Приходите всей семьёй!\n\n{branch.name}"
)
_NEWS_SHORT = "В субботу в 12:00 у нас день открытых дверей. Приходите всей семьёй! {branch.name}"
_CABINET = "С понедельника в кабинете видно расписание на следующий месяц. Загляните!"
_PERSONAL = "Здравствуйте!\n\nВы забыли у нас шапку с оленями. Она ждёт вас у администратора.\n\n{branch.name}"

_TAKEN = Outcome(Fate.SENT)
# What became of one message of a run after another; of those refused the next way is tried.
_LUCK: dict[Channel, Sequence[Outcome]] = {
    Channel.EMAIL: (
        _TAKEN,
        Outcome(Fate.REFUSED, "550 5.1.1 Почтового ящика с таким адресом нет"),
        _TAKEN,
        Outcome(Fate.UNKNOWN, "Сервер не ответил: письмо могло уйти"),
        *(_TAKEN, _TAKEN),
    ),
    Channel.WHATSAPP: (_TAKEN, Outcome(Fate.REFUSED, "У этого номера нет WhatsApp"), _TAKEN),
    Channel.SMS: (_TAKEN, Outcome(Fate.REFUSED, "Абонент заблокирован оператором"), _TAKEN),
    Channel.TELEGRAM: (_TAKEN,),
    Channel.CABINET: (_TAKEN,),
}
# How far what was taken got, in turn.
_GOT: dict[Channel, Sequence[MessageStatus]] = {
    Channel.WHATSAPP: (MessageStatus.READ, MessageStatus.DELIVERED),
    Channel.SMS: (MessageStatus.DELIVERED, MessageStatus.DELIVERED, MessageStatus.SENT),
    Channel.CABINET: (MessageStatus.READ, MessageStatus.SENT),
}


def live_mailings(story: Story, families: list[Family]) -> None:
    """Note the events of all this."""
    mailings = _Mailings(story)
    lesnoy, rechnoy, mira = story.network.branches
    for branch in story.network.branches:
        story.note(branch, BEGUN_DAYS_AGO, lambda branch=branch: mailings.begin(branch), by=story.network.owner)  # type: ignore[misc]
    _say(story, families)
    story.note_at(_noon(lesnoy, 6), story.head(lesnoy), lambda: mailings.run(lesnoy, MailingKind.DEBT))
    story.note_at(_noon(mira, 4), story.head(mira), lambda: mailings.run(mira, MailingKind.SUBSCRIPTION))
    story.note_at(_noon(rechnoy, 2), story.head(rechnoy), lambda: mailings.run(rechnoy, MailingKind.LESSON))
    open_day = SelectionFacts(
        "День открытых дверей",
        [
            WrittenWay(Channel.TELEGRAM, text=_NEWS_SHORT),
            WrittenWay(Channel.EMAIL, subject="Приходите на день открытых дверей", text=_NEWS),
        ],
    )
    story.note_at(_noon(lesnoy, 3), story.head(lesnoy), lambda: mailings.write(lesnoy, open_day))
    cabinet = SelectionFacts("Расписание в кабинете", [WrittenWay(Channel.CABINET, text=_CABINET)])
    story.note_at(_noon(rechnoy, 1), story.head(rechnoy), lambda: mailings.write(rechnoy, cabinet))
    for family in families[:2]:
        story.note(family.branch, 5, lambda family=family: mailings.write_by_hand(family))  # type: ignore[misc]


def switch_mailings_on() -> None:
    """From now on the rules run by themselves; the messengers have nobody behind them and are switched off."""
    for rule in db.session.scalars(select(MailingRule).where(~MailingRule.is_selected).order_by(MailingRule.id)):
        rule.is_active = True
    for provider in db.session.scalars(select(Provider).order_by(Provider.id)):
        provider.is_active = False
    db.session.flush()


def _noon(branch: Branch, days_ago: int) -> datetime:
    return clock.at(clock.today(branch) - timedelta(days=days_ago), time(12), branch)


def _say(story: Story, families: list[Family]) -> None:
    """Every third family links itself to the bot; some do not want one kind of messages or another, or SMS at all."""
    for number, family in enumerate(families):
        joined = family.joined_days_ago - 1
        if number % 3 == 0:
            chat = str(700_000_000 + number)
            story.note(family.branch, joined, lambda family=family, chat=chat: _link(family, chat))  # type: ignore[misc]
        if number % 7 == 4:
            refused = (MessageKind.NEWS, MessageKind.DEBT, MessageKind.BIRTHDAY)[number // 7 % 3]
            story.note(
                family.branch,
                joined,
                lambda family=family, refused=refused: choose(family.card, refused, False, by=None),  # type: ignore[misc]
            )
        if number % 5 == 2:
            story.note(
                family.branch,
                joined,
                lambda family=family: choose(family.card, MessageKind.NEWS, True, by=story.clerk(family.branch)),  # type: ignore[misc]
            )


def _link(family: Family, chat: str) -> None:
    token = contact_url(family.card).rpartition("/")[2]
    link_contact(token, Channel.TELEGRAM, chat)


class _Mailings:
    """Templates are made once, rules in each branch."""

    def __init__(self, story: Story) -> None:
        self._story = story
        self._templates: dict[str, Template] = {}

    def begin(self, branch: Branch) -> None:
        """The branch's rules, switched off for now; with the first branch the templates and the services as well."""
        if not self._templates:
            self._prepare(branch)
        for facts in self._rules(branch):
            save_rule(None, facts, by=self._story.head(branch))

    def run(self, branch: Branch, kind: MailingKind) -> None:
        """Run the branch's rule of this kind, and send what it writes."""
        rules = select(MailingRule).where(MailingRule.branch_id == branch.id, MailingRule.kind == kind)
        rule = db.session.scalars(rules.order_by(MailingRule.id)).first()
        assert rule is not None
        run = run_now(rule, by=self._story.head(branch))
        while not execute_run(run.id, by=SYSTEM):
            pass
        _send()

    def write(self, branch: Branch, facts: SelectionFacts) -> None:
        """A message to all who pay in the branch, where anybody does."""
        if db.session.scalar(_payers_of(branch).limit(1)) is None:
            return
        for run in mail_selection(facts, _payers_of(branch), by=self._story.head(branch)):
            while not execute_run(run.id, by=SYSTEM):
                pass
        _send()

    def write_by_hand(self, family: Family) -> None:
        if family.card.email:
            by = self._story.clerk(family.branch)
            send_message_to(family.card, subject="Забытая шапка", text=_PERSONAL, by=by)
            _send()

    def _prepare(self, branch: Branch) -> None:
        owner = self._story.network.owner
        for name, (title, subject, body) in _TEXTS.items():
            channel = Channel.SMS if subject is None else Channel.EMAIL
            self._templates[name] = save_template(
                None, name=title, channel=channel, subject=subject, body=body, by=owner
            )
        for kind, options, price in (
            (ProviderKind.TELEGRAM, {"bot": "prilesye_demo_bot"}, None),
            (ProviderKind.WHATSAPP, {"channel": "demo"}, WHATSAPP_PRICE),
        ):
            facts = ProviderFacts(branch.company, kind, secret="demo", options=options, price=price)  # noqa: S106
            save_provider(None, facts, by=SYSTEM)

    def _rules(self, branch: Branch) -> list[RuleFacts]:
        lesnoy, rechnoy, mira = self._story.network.branches
        of, off = self._templates, {"branch": branch, "is_active": False}
        letter, short = (_named(name) for name in ("Счёт на оплату", "Ссылка на счёт (SMS)"))
        debt = RuleFacts(
            name="Просим пополнить счёт",
            kind=MailingKind.DEBT,
            periodicity=Periodicity.WEEKLY,
            weekday=0,
            send_time=time(12),
            ways=[Way(Channel.SMS, of["debt sms"]), Way(Channel.EMAIL, of["debt letter"])],
            **off,  # type: ignore[arg-type]
        )
        ends = RuleFacts(
            name="Абонемент скоро закончится",
            kind=MailingKind.SUBSCRIPTION,
            days=3,
            send_time=time(11),
            ways=[Way(Channel.EMAIL, of["ends letter"]), Way(Channel.SMS, of["ends sms"])],
            **off,  # type: ignore[arg-type]
        )
        lesson = RuleFacts(
            name="Завтра занятие",
            kind=MailingKind.LESSON,
            days=1,
            send_time=time(18),
            ways=[Way(Channel.SMS, of["lesson sms"])],
            **off,  # type: ignore[arg-type]
        )
        birthday = RuleFacts(
            name="С днём рождения",
            kind=MailingKind.BIRTHDAY,
            send_time=time(9, 30),
            ways=[Way(Channel.EMAIL, of["birthday letter"])],
            **off,  # type: ignore[arg-type]
        )
        monthly = RuleFacts(
            name="Счета на следующий месяц",
            method=BillingMethod.FORECAST,
            accounts=BilledAccounts.BASE,
            period_type=PeriodType.NEXT,
            term=Term.MONTH_END,
            periodicity=Periodicity.MONTHLY,
            month_day=25,
            send_time=time(10),
            ways=[Way(Channel.EMAIL, letter), Way(Channel.SMS, short)],
            **off,  # type: ignore[arg-type]
        )
        ending = RuleFacts(
            name="Осталось одно занятие",
            accounts=BilledAccounts.SUBSCRIPTION,
            lessons_to=1,
            term=Term.DAYS_5,
            attended_only=True,
            send_time=time(13),
            ways=[Way(Channel.SMS, short)],
            **off,  # type: ignore[arg-type]
        )
        return {
            lesnoy.id: [debt, ends, birthday],  # its bills: network.py
            rechnoy.id: [monthly, lesson, debt],
            mira.id: [ending, ends, birthday],
        }[branch.id]


def _send() -> None:
    """All that is queued, as a worker does it, and what the services tell later; the next ways are sent too."""
    luck: dict[Channel, Iterator[Outcome]] = {channel: cycle(outcomes) for channel, outcomes in _LUCK.items()}
    got: dict[Channel, Iterator[MessageStatus]] = {channel: cycle(statuses) for channel, statuses in _GOT.items()}
    while claims := take_messages():
        for claim in claims:
            begun = begin_sending(claim).claim
            if begun is None:
                continue
            outcome = next(luck[begun.channel])
            if begun.channel is Channel.SMS and outcome.fate is Fate.SENT:
                outcome = replace(outcome, cost=SMS_PRICE * sms_length(begun.letter.text).parts)
            settle_message(begun, outcome)
            if outcome.fate is Fate.SENT and begun.channel in got:
                status = next(got[begun.channel])
                if status is not MessageStatus.SENT:
                    move_message(begun.message_id, MessageStatus.SENT, status)


def _named(name: str) -> Template:
    return db.session.scalars(select(Template).where(Template.name == name)).one()


def _payers_of(branch: Branch) -> Select[int]:
    return select(Client.id).where(Client.branch_id == branch.id, Client.payer_id.is_(None))
