"""Tags of templates: `{customer.name}`, `{bill.url}`… Declared once; the panel's list, the checks and the letters use
this registry.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from difflib import get_close_matches
from functools import partial
from typing import Any

from flask_babel import force_locale
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from flask_babel import lazy_pgettext as _lp

from crm import clock
from crm.access.actors import Actor
from crm.access.fields import field_rules
from crm.access.models import Branch
from crm.bills.links import bill_url
from crm.bills.models import Bill
from crm.clients.models import Client
from crm.contacts.operations import contact_url
from crm.errors import DomainError
from crm.fields.models import CustomField
from crm.fields.queries import all_fields, custom_text
from crm.i18n import day, money
from crm.ledger.models import Account
from crm.mailings.models import HIDDEN, MailingKind, Template
from crm.phones import format_phone
from crm.schedule.models import Lesson
from crm.subscriptions.models import Subscription

# Letters go to the clients of Russian businesses, whatever language the clerk reads the panel in.
LETTER_LANGUAGE = "ru"

# What looks like a tag: words joined by points. Other braces are letters of the text.
_TAG = re.compile(r"\{([^\S\n]*[^\W\d][^\s{}.]*\.[^\s{}]+[^\S\n]*)\}")


class Subject(enum.Enum):
    """What a tag is about, and what there must be for it."""

    CLIENT = "client"
    BRANCH = "branch"
    BILL = "bill"
    BILLS = "bills"
    PAYMENT = "payment"
    DEBT = "debt"
    SUBSCRIPTION = "subscription"
    LESSON = "lesson"


# How much alike a name and the one that was meant are, as difflib counts it: a letter or two are wrong.
_NEAR = 0.8

# What every message has.
_ALWAYS = frozenset({Subject.CLIENT, Subject.BRANCH})
# What may be told of in a message by hand (with a bill chosen, of it), in thanks, and in a mailing of each kind.
BY_HAND = _ALWAYS | {Subject.BILL, Subject.BILLS}
OF_THANKS = BY_HAND | {Subject.PAYMENT}
OF_CONTRACT = _ALWAYS
OF_KIND: dict[MailingKind, frozenset[Subject]] = {
    MailingKind.BILLS: BY_HAND,
    MailingKind.DEBT: _ALWAYS | {Subject.DEBT},
    MailingKind.SUBSCRIPTION: _ALWAYS | {Subject.SUBSCRIPTION},
    MailingKind.LESSON: _ALWAYS | {Subject.LESSON},
    MailingKind.BIRTHDAY: _ALWAYS,
    MailingKind.TEXT: _ALWAYS,
}


@dataclass(frozen=True)
class Tag:
    """A name between braces, what it stands for, and its text.

    text_of takes a Client, a Branch, a Bill, a Paid or the sum of a debt; of BILLS, SUBSCRIPTION and LESSON the list of
    them. also: other spellings of the name, not offered. shows: the field it tells, "client.phone" say, for who is not
    shown that one.
    """

    name: str
    label: Any
    subject: Subject
    text_of: Callable[[Any], str]
    also: tuple[str, ...] = ()
    shows: str = ""

    def __str__(self) -> str:
        return f"{{{self.name}}}"


@dataclass(frozen=True)
class Paid:
    """Money that has come: what a letter of thanks tells. day: at the branch."""

    amount: Decimal
    account: Account
    day: date


def _client_name(client: Client) -> str:
    return client.name


def _bill_amount(bill: Bill) -> str:
    return money(bill.amount)


def _bill_type(bill: Bill) -> str:
    return str(bill.method.label)


def _bill_begin(bill: Bill) -> str:
    return day(bill.period_from)


def _bill_end(bill: Bill) -> str:
    return day(bill.period_to)


def _bill_subjects(bill: Bill) -> str:
    """What is learnt for the bill's money: the subjects of its subscriptions; of those for any subject their names.
    Empty when the bill is for no subscription and says no purpose.
    """
    names = list[str]()
    for subscription in bill.subscriptions:
        plan = subscription.plan
        names += [subject.name for subject in plan.subjects] or [plan.name]
    return _each(names) or bill.purpose


def _bill_amount_url(bill: Bill) -> str:
    return f"{_bill_amount(bill)} {bill_url(bill)}"


def _bill_amount_subjects_url(bill: Bill) -> str:
    return " ".join(part for part in (_bill_amount(bill), _bill_subjects(bill), bill_url(bill)) if part)


def _a_line_each(text_of: Callable[[Bill], str]) -> Callable[[Sequence[Bill]], str]:
    return lambda bills: "\n".join(text_of(bill) for bill in bills)


def _each(texts: Iterable[str]) -> str:
    """Different texts, in their order, on one line."""
    return ", ".join(dict.fromkeys(texts))


def _lessons_left(subscriptions: Sequence[Subscription]) -> str:
    unlimited = _("without a limit")
    return _each(unlimited if one.is_unlimited else f"{one.lessons_left.normalize():f}" for one in subscriptions)


def _lesson_date(lessons: Sequence[Lesson]) -> str:
    return _each(day(clock.local(lesson.starts_at, lesson.branch).date()) for lesson in lessons)


def _lesson_time(lessons: Sequence[Lesson]) -> str:
    return _each(f"{clock.local(lesson.starts_at, lesson.branch):%H:%M}" for lesson in lessons)


def _lesson_subject(lessons: Sequence[Lesson]) -> str:
    return _each((lesson.subject or lesson.lesson_type).name for lesson in lessons)


TAGS: dict[str, Tag] = {
    tag.name: tag
    for tag in (
        Tag("customer.name", _l("Client's name"), Subject.CLIENT, _client_name, shows="client.name"),
        Tag(
            "customer.surname",
            _lp("tag", "Surname"),
            Subject.CLIENT,
            lambda client: client.surname,
            shows="client.surname",
        ),
        Tag(
            "customer.patronymic",
            _lp("tag", "Patronymic"),
            Subject.CLIENT,
            lambda client: client.patronymic,
            shows="client.patronymic",
        ),
        Tag(
            "customer.phone",
            _lp("tag", "Phone"),
            Subject.CLIENT,
            lambda client: format_phone(client.phone),
            shows="client.phone",
        ),
        Tag(
            "customer.email",
            _lp("tag", "E-mail"),
            Subject.CLIENT,
            lambda client: client.email or "",
            shows="client.email",
        ),
        Tag(
            "customer.birth_date",
            _lp("tag", "Date of birth"),
            Subject.CLIENT,
            lambda client: day(client.birth_date),
            shows="client.birth_date",
        ),
        Tag(
            "customer.messages_url", _lp("tag", "Page where the client says what he takes"), Subject.CLIENT, contact_url
        ),
        Tag("company.name", _lp("tag", "Company"), Subject.BRANCH, lambda branch: branch.company.name),
        Tag("branch.name", _lp("tag", "Branch"), Subject.BRANCH, lambda branch: branch.name),
        Tag(
            "branch.phone",
            _lp("tag", "Phone of the branch"),
            Subject.BRANCH,
            lambda branch: format_phone(branch.phone or branch.company.phone),
        ),
        Tag("bill.url", _lp("tag", "Link"), Subject.BILL, bill_url),
        Tag("bill.amount", _lp("tag", "Amount"), Subject.BILL, _bill_amount, shows="bill.amount"),
        Tag("bill.type", _lp("tag", "Type"), Subject.BILL, _bill_type, shows="bill.method"),
        Tag(
            "bill.begin_date",
            _lp("tag", "Beginning of the period"),
            Subject.BILL,
            _bill_begin,
            shows="bill.period_from",
        ),
        Tag("bill.end_date", _lp("tag", "End of the period"), Subject.BILL, _bill_end, shows="bill.period_to"),
        Tag(
            "bill.amount_subjects_url",
            _lp("tag", "Amount, subject, link"),
            Subject.BILL,
            _bill_amount_subjects_url,
            also=("bill.amount_subject_url",),
            shows="bill.amount",
        ),
        Tag("bill.amount_url", _lp("tag", "Amount, link"), Subject.BILL, _bill_amount_url, shows="bill.amount"),
        Tag("customer.bills", _lp("tag", "Links to all the bills"), Subject.BILLS, _a_line_each(bill_url)),
        Tag(
            "customer.bills.amount_url",
            _lp("tag", "All the bills: amount, link"),
            Subject.BILLS,
            _a_line_each(_bill_amount_url),
            shows="bill.amount",
        ),
        Tag(
            "customer.bills.amount_subject_url",
            _lp("tag", "All the bills: amount, subjects, link"),
            Subject.BILLS,
            _a_line_each(_bill_amount_subjects_url),
            also=("customer.bills.amount_subjects_url",),
            shows="bill.amount",
        ),
        Tag(
            "payment.amount",
            _lp("tag", "Sum received"),
            Subject.PAYMENT,
            lambda paid: money(paid.amount),
            shows="payment.amount",
        ),
        Tag("payment.account", _lp("tag", "Account the money is on"), Subject.PAYMENT, lambda paid: paid.account.title),
        Tag("payment.date", _lp("tag", "Day of the payment"), Subject.PAYMENT, lambda paid: day(paid.day)),
        Tag("debt.amount", _lp("tag", "Debt"), Subject.DEBT, money, shows="account.balance"),
        Tag(
            "subscription.name",
            _lp("tag", "Subscription"),
            Subject.SUBSCRIPTION,
            lambda told: _each(one.plan.name for one in told),
        ),
        Tag(
            "subscription.end_date",
            _lp("tag", "Last day of the subscription"),
            Subject.SUBSCRIPTION,
            lambda told: _each(day(one.ends_on) for one in told),
        ),
        Tag(
            "subscription.lessons_left",
            _lp("tag", "Lessons left"),
            Subject.SUBSCRIPTION,
            _lessons_left,
            shows="subscription.lessons_left",
        ),
        Tag("lesson.date", _lp("tag", "Date of the lesson"), Subject.LESSON, _lesson_date),
        Tag("lesson.time", _lp("tag", "Time of the lesson"), Subject.LESSON, _lesson_time),
        Tag("lesson.subject", _lp("tag", "Subject of the lesson"), Subject.LESSON, _lesson_subject),
    )
}
# What stands in the texts of those who spell a name the other way.
_SPELLED = {name: tag for tag in TAGS.values() for name in tag.also}
_KNOWN = TAGS | _SPELLED


# Fields staff have added are tags of whom they describe: `{customer.custom.class}`.
_CUSTOMISED = (("customer", "client", Subject.CLIENT), ("bill", "bill", Subject.BILL))


def all_tags(*, deleted: bool = False) -> dict[str, Tag]:
    """The tags of the registry and of the fields staff have added; deleted: also of those they deleted since."""
    tags = dict(TAGS)
    for prefix, entity, subject in _CUSTOMISED:
        by_key: dict[str, list[CustomField]] = {}
        for field in all_fields(entity):
            if deleted or not field.is_archived:
                by_key.setdefault(field.key, []).append(field)
        for key, fields in by_key.items():
            name = f"{prefix}.custom.{key}"
            text_of = partial(custom_text, key=key, fields=fields)
            tags[name] = Tag(name, fields[0].label, subject, text_of, shows=f"{entity}.custom.{key}")
    return tags


# Who may not see the rows of these is not shown what is told of them.
_SEEN_WITH = {
    Subject.CLIENT: "client.view",
    Subject.BILL: "bill.view",
    Subject.BILLS: "bill.view",
    Subject.PAYMENT: "payment.view",
    Subject.DEBT: "account.view",
    Subject.SUBSCRIPTION: "subscription.view",
    Subject.LESSON: "lesson.view",
}


def hidden_tags(by: Actor) -> frozenset[str]:
    """Names of the tags whose text `by` is not shown: those of fields his role does not see, and of what it may not
    see at all.
    """
    entities = ("client", "bill", "payment", "account", "subscription")
    hidden = {entity: field_rules(by, entity).hidden for entity in entities}
    found = set[str]()
    for tag in all_tags(deleted=True).values():
        entity, _dot, field = tag.shows.partition(".")
        needs = _SEEN_WITH.get(tag.subject)
        if (field and field in hidden[entity]) or (needs is not None and not by.may(needs)):
            found.add(tag.name)
    return frozenset(found)


def tags_about(subjects: Iterable[Subject], hidden: Collection[str] = ()) -> list[Tag]:
    """Those a text that tells of these may use, in the order they are shown, without the hidden ones."""
    wanted = frozenset(subjects)
    return [tag for tag in all_tags().values() if tag.subject in wanted and tag.name not in hidden]


def told_of(*texts: str) -> frozenset[Subject]:
    """What the tags of some texts are about: with BILL among it each bill takes a message of its own."""
    return frozenset(tag.subject for tag in _tags_used(texts))


def tags_told(*texts: str) -> list[str]:
    """Names of the tags some texts hold, in the order of the alphabet."""
    return sorted({tag.name for tag in _tags_used(texts)})


def _tags_used(texts: Iterable[str]) -> list[Tag]:
    texts = list(texts)
    tags = _tags_in(texts)
    return [tags[name] for text in texts for name in _TAG.findall(text) if name in tags]


def _tags_in(texts: Iterable[str]) -> dict[str, Tag]:
    """By every spelling. A template outlives a field: what it was filled with still is."""
    return all_tags(deleted=True) | _SPELLED if any(".custom." in text for text in texts) else _KNOWN


def check_tags(text: str, *, field: str, is_thanks: bool = False) -> None:
    """Raise DomainError beside `field`: "tag_unknown" when `text` holds a tag that does not exist, "payment_required"
    for a payment's tag in anything but thanks, "tag_misplaced" for a mailing's in thanks.
    """
    tags = all_tags() | _SPELLED
    _check(text, tags, field, OF_THANKS if is_thanks else frozenset(Subject) - {Subject.PAYMENT})
    for name in _TAG.findall(text):
        tag = tags[name]
        if tag.subject is Subject.PAYMENT and not is_thanks:
            raise _payment_required(tag, field)
        if is_thanks and tag.subject not in OF_THANKS:
            raise DomainError(
                "tag_misplaced", _("There is nothing to put in the place of %(tag)s in thanks.", tag=str(tag)), field
            )


def templates_for(kind: MailingKind, templates: Iterable[Template]) -> list[Template]:
    """Those whose every tag a mailing of the kind has a value for, as check_template_for() asks of one."""
    templates = list(templates)
    tags = _tags_in(template.body + template.subject for template in templates)
    misplaced = {name for name, tag in tags.items() if tag.subject not in OF_KIND[kind]}
    return [one for one in templates if misplaced.isdisjoint(_TAG.findall(f"{one.subject}\n{one.body}"))]


def check_seen(text: str, hidden: Collection[str], *, field: str) -> None:
    """Raise DomainError "tag_hidden" beside `field` when `text` holds one of the `hidden` tags: whoever wrote them to
    himself would read what his role does not see.
    """
    for tag in _tags_used([text]) if hidden else ():
        if tag.name in hidden:
            raise DomainError(
                "tag_hidden",
                _("Your role does not see what %(tag)s tells. Remove the tag.", tag=str(tag)),
                field,
            )


def check_template_for(template: Template, kind: MailingKind, *, field: str = "template") -> None:
    """Raise DomainError "tag_misplaced" beside `field` when a mailing of this kind has nothing for one of the tags."""
    check_text_for(template.subject, kind, field=field)
    check_text_for(template.body, kind, field=field)


def check_text_for(text: str, kind: MailingKind, *, field: str) -> None:
    """The same of a text; its tags exist."""
    tags = _tags_in([text])
    for name in _TAG.findall(text):
        if name in tags and tags[name].subject not in OF_KIND[kind]:
            raise DomainError(
                "tag_misplaced",
                _(
                    "There is nothing to put in the place of {%(name)s} in a mailing of the type “%(kind)s”.",
                    name=name,
                    kind=kind.label,
                ),
                field,
            )


def check_tags_of_contract(text: str, *, field: str = "body") -> None:
    """Raise DomainError beside `field`: "tag_unknown", or "tag_misplaced" for a tag of a bill, a payment or a reminder,
    which a contract has nothing for.
    """
    tags = all_tags() | _SPELLED
    _check(text, tags, field, OF_CONTRACT)
    for name in _TAG.findall(text):
        if tags[name].subject not in OF_CONTRACT:
            raise DomainError(
                "tag_misplaced",
                _("There is nothing to put in the place of %(tag)s in a contract.", tag=f"{{{name}}}"),
                field,
            )


def _payment_required(tag: Tag, field: str) -> DomainError:
    return DomainError(
        "payment_required",
        _("The tag %(tag)s tells of a payment: it is for thanks, which are sent after one.", tag=str(tag)),
        field,
    )


def _check(text: str, tags: dict[str, Tag], field: str, allowed: frozenset[Subject]) -> None:
    """allowed: what the tag that was meant may be about."""
    for name in _TAG.findall(text):
        if name not in tags:
            near = get_close_matches(name, [tag.name for tag in tags.values() if tag.subject in allowed], 1, _NEAR)
            if near:
                said = _("There is no tag {%(name)s}. Did you mean {%(near)s}?", name=name, near=near[0])
            else:
                said = _("There is no tag {%(name)s}. The tags there are stand beside the text.", name=name)
            raise DomainError("tag_unknown", said, field)


def render(
    text: str,
    *,
    client: Client,
    bill: Bill | None = None,
    bills: Sequence[Bill] = (),
    paid: Paid | None = None,
    debt: Decimal | None = None,
    subscriptions: Sequence[Subscription] = (),
    lessons: Sequence[Lesson] = (),
    branch: Branch | None = None,
    field: str = "body",
    missing: list[str] | None = None,
    hidden: Collection[str] = (),
) -> str:
    """`text` with its tags replaced, in one pass: braces within a client's name stay what they are. Plain text: what
    shows it as HTML escapes it.

    bill: of {bill.…}; bills: of {customer.bills…}, by default the one bill. debt: above zero. subscriptions, lessons:
    what a reminder is about; their texts stand beside one another. branch: whose name and phone are told, by default
    that of the bill, the lesson or the subscription, else of the client. missing: gathers the tags there is nothing
    for, which then stay as they are: for a preview. hidden: names of the tags whose text is not shown (hidden_tags()).
    Raises DomainError beside `field`: "tag_unknown", or "bill_required", "payment_required", "tag_misplaced" when there
    is no bill, no payment or nothing else for its tag.
    """
    bills = bills or ([bill] if bill is not None else [])
    about: Any = bill or next(iter(bills or lessons or subscriptions), client)
    facts: dict[Subject, Any] = {
        Subject.CLIENT: client,
        Subject.BRANCH: branch or about.branch,
        Subject.BILL: bill,
        Subject.BILLS: bills or None,
        Subject.PAYMENT: paid,
        Subject.DEBT: debt,
        Subject.SUBSCRIPTION: subscriptions or None,
        Subject.LESSON: lessons or None,
    }
    tags = _tags_in([text])
    _check(text, tags, field, frozenset(subject for subject, told in facts.items() if told is not None))

    def replace(match: re.Match[str]) -> str:
        tag = tags[match[1]]
        told = facts[tag.subject]
        if told is None:
            if missing is None:
                raise _nothing_for(tag, field)
            missing.append(tag.name)
            return match[0]
        if tag.name in hidden:
            return HIDDEN
        with force_locale(LETTER_LANGUAGE):
            return tag.text_of(told)

    return _TAG.sub(replace, text)


def _nothing_for(tag: Tag, field: str) -> DomainError:
    if tag.subject is Subject.PAYMENT:
        return _payment_required(tag, field)
    if tag.subject in {Subject.BILL, Subject.BILLS}:
        return DomainError(
            "bill_required",
            _("The tag %(tag)s needs a bill. Choose a bill or remove the tag.", tag=str(tag)),
            field,
        )
    return DomainError("tag_misplaced", _("There is nothing to put in the place of %(tag)s here.", tag=str(tag)), field)
