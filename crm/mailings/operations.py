"""Verbs of mailings: keep templates and rules, plan runs, write a letter by hand, send a failed one again."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, time

from flask_babel import gettext as _
from sqlalchemy import or_, select
from sqlalchemy.exc import IntegrityError

from crm import clock
from crm.access.actors import SYSTEM, Actor, require
from crm.access.mailing_option import check_mailings
from crm.access.models import Branch
from crm.bell import ring
from crm.bills.models import Bill, BillStatus
from crm.clients.models import Client, PhoneKind
from crm.db import db
from crm.errors import Conflict, DomainError
from crm.mailings.channels.sms import SmsLength, sms_length
from crm.mailings.delivery import landline_text, move_message
from crm.mailings.models import (
    BilledAccounts,
    BillingMethod,
    Channel,
    MailingKind,
    MailingRule,
    MailingRun,
    Message,
    MessageStatus,
    Periodicity,
    RunStatus,
    Template,
)
from crm.mailings.schedule import latest_planned
from crm.mailings.tags import check_tags, render
from crm.phones import is_landline

# The names of jobs/tasks.py these operations ring for.
EXECUTE_RUN = "mailings.execute_run"
DELIVER = "mailings.deliver"


# --- templates and rules ---------------------------------------------------------------------------------------------


def save_template(
    template: Template | None,
    *,
    name: str | None,
    subject: str | None,
    body: str | None,
    by: Actor,
    channel: Channel = Channel.EMAIL,
    is_thanks: bool = False,
) -> Template:
    """Add a template (None) or change one. Raises DomainError beside the field. The caller commits.

    subject: of letters alone; an SMS has none, whatever is given. is_thanks: sent by itself when a payment has come.
    """
    require(by, "template.edit" if template else "template.create")
    name, subject, body = " ".join((name or "").split()), " ".join((subject or "").split()), (body or "").strip()
    if not name:
        raise DomainError("name_empty", _("Enter the name."), "name")
    if channel is not Channel.EMAIL:
        subject = ""
    elif not subject:
        raise DomainError("subject_empty", _("Enter the subject of the letter."), "subject")
    if not body:
        raise DomainError("body_empty", _("Enter the text of the letter."), "body")
    check_tags(subject, field="subject", is_thanks=is_thanks)
    check_tags(body, field="body", is_thanks=is_thanks)
    namesakes = db.session.scalars(select(Template).where(Template.name == name))
    if any(other is not template for other in namesakes):
        raise DomainError("name_taken", _("There is a template with this name already."), "name")
    if template is not None and template.channel is not channel:
        _refuse_while_used(template)
    if is_thanks:
        thanks = select(Template).where(Template.is_thanks, Template.channel == channel)
        for other in db.session.scalars(thanks):
            if other is not template:
                text = _("Thanks are written by the template “%(name)s” already.", name=other.name)
                raise DomainError("thanks_taken", text, "is_thanks")
    template = template or Template()
    template.name, template.subject, template.body, template.channel = name, subject, body, channel
    template.is_thanks = is_thanks
    db.session.add(template)
    db.session.flush()
    return template


def _refuse_while_used(template: Template) -> None:
    # Beside the scope: a template is the network's, its mailings may be another branch's.
    rules = MailingRule.__table__
    used = select(rules.c.name).where(rules.c.template_id == template.id).order_by(rules.c.id).limit(1)
    if name := db.session.connection().scalar(used):
        raise DomainError(
            "template_used", _("The mailing “%(name)s” sends by this template another way.", name=name), "channel"
        )


def save_rule(
    rule: MailingRule | None,
    *,
    name: str | None,
    branch: Branch | None,
    send_time: time | None,
    template: Template | None,
    by: Actor,
    periodicity: Periodicity = Periodicity.DAILY,
    weekday: int | None = None,
    month_day: int | None = None,
    kind: MailingKind = MailingKind.BILLS,
    method: BillingMethod = BillingMethod.SUBSCRIPTION,
    accounts: BilledAccounts = BilledAccounts.BASE,
    term_days: int | None = None,
    is_repeatable: bool = False,
    is_active: bool = True,
    channel: Channel = Channel.EMAIL,
) -> MailingRule:
    """Add a rule (None) or change one. Raises DomainError beside the field. The caller commits.

    weekday, month_day: needed by a weekly or monthly rule, forgotten by the others.
    """
    require(by, "mailingrule.edit" if rule else "mailingrule.create", rule)
    name = " ".join((name or "").split())
    if not name:
        raise DomainError("name_empty", _("Enter the name."), "name")
    if branch is None:
        raise DomainError("branch_empty", _("Choose a branch."), "branch")
    if send_time is None:
        raise DomainError("time_required", _("Enter the time."), "send_time")
    if periodicity is Periodicity.WEEKLY and (weekday is None or not 0 <= weekday <= 6):
        raise DomainError("weekday_required", _("Choose the day of the week."), "weekday")
    if periodicity is Periodicity.MONTHLY and (month_day is None or not 1 <= month_day <= 31):
        raise DomainError("month_day_required", _("Choose the day of the month, 1 to 31."), "month_day")
    if template is None:
        raise DomainError("template_required", _("Choose a template: without it no letter is sent."), "template")
    if template.channel is not channel:
        raise DomainError("template_channel", _("This template is for another way of sending."), "template")
    if term_days is not None and term_days < 1:
        raise DomainError("term_invalid", _("The term is one day or more."), "term_days")
    rule = rule or MailingRule(created_at=clock.now(), author_id=by.id)
    rule.branch_id = branch.id
    rule.name, rule.template_id, rule.channel = name, template.id, channel
    rule.kind, rule.method, rule.accounts = kind, method, accounts
    rule.term_days, rule.is_repeatable, rule.is_active = term_days, is_repeatable, is_active
    rule.periodicity, rule.send_time = periodicity, send_time.replace(second=0, microsecond=0)
    rule.weekday = weekday if periodicity is Periodicity.WEEKLY else None
    rule.month_day = month_day if periodicity is Periodicity.MONTHLY else None
    db.session.add(rule)
    db.session.flush()
    return rule


# --- runs ------------------------------------------------------------------------------------------------------------


def plan_due_runs(*, now: datetime) -> list[MailingRun]:
    """Make the run each active rule is due for and ring for it; what was planned already is left alone.

    After down-time the latest missed moment is caught up once. Two schedulers at once make one run: UNIQUE decides.
    The caller commits.
    """
    planned = []
    for rule in db.session.scalars(select(MailingRule).where(MailingRule.is_active).order_by(MailingRule.id)):
        moment = latest_planned(rule, now=now)
        if moment >= rule.schedule_since and (run := _new_run(rule, moment, by=SYSTEM)) is not None:
            planned.append(run)
    return planned


def run_now(rule: MailingRule, *, by: Actor) -> MailingRun:
    """Run a rule at once, whatever its schedule. The caller commits.

    A run of this rule that is still on its way is returned instead of a second one. Raises DomainError "mailings_off".
    """
    require(by, "mailingrule.run", rule)
    check_mailings(rule.branch_id)
    now = clock.now()
    query = (
        select(MailingRun)
        .where(
            MailingRun.rule_id == rule.id,
            or_(MailingRun.status != RunStatus.DONE, MailingRun.planned_at == now),
        )
        .order_by(MailingRun.id.desc())
        .limit(1)
    )
    run = db.session.scalar(query) or _new_run(rule, now, by=by, is_manual=True)
    if run is None:
        raise Conflict("run_planned", _("This mailing has just been started by somebody else."))
    if run.status is not RunStatus.DONE:
        ring(EXECUTE_RUN, run.id)
    return run


def _new_run(rule: MailingRule, moment: datetime, *, by: Actor, is_manual: bool = False) -> MailingRun | None:
    """The run of `rule` for `moment`, with its bell; None when it exists."""
    if db.session.scalar(select(MailingRun.id).where(MailingRun.rule_id == rule.id, MailingRun.planned_at == moment)):
        return None
    run = MailingRun(branch_id=rule.branch_id, rule_id=rule.id, planned_at=moment, is_manual=is_manual, author_id=by.id)
    try:
        with db.session.begin_nested():
            db.session.add(run)
            db.session.flush()
    except IntegrityError:
        return None  # another scheduler was faster
    ring(EXECUTE_RUN, run.id)
    return run


# --- messages --------------------------------------------------------------------------------------------------------

# More are too dear to be sent by a slip of the hand, and SMS.RU takes no more.
MAX_SMS_PARTS = 8


@dataclass(frozen=True)
class Draft:
    """A message as the client will get it. length: of an SMS."""

    channel: Channel
    recipient: str
    subject: str
    body: str
    length: SmsLength | None


def address_of(client: Client, channel: Channel) -> str | None:
    """Where messages of a channel reach the client: his e-mail, or his first mobile phone; None when he has none."""
    return client.email if channel is Channel.EMAIL else client.mobile_phone


def draft_message_to(
    client: Client,
    *,
    text: str,
    by: Actor,
    subject: str = "",
    channel: Channel = Channel.EMAIL,
    phone: str | None = None,
    bill: Bill | None = None,
) -> Draft:
    """A message by hand with its tags filled in; nothing is written.

    subject: of a letter; an SMS has none. phone: which of the client's an SMS goes to, his first mobile one by default.
    bill: gives the bill's tags their values; without it such tags are refused.
    Raises DomainError beside `subject`, `text` or `bill`; "mailings_off", "no_email", "no_phone", "phone_not_mobile"
    above the form.
    """
    require(by, "message.send", client)
    check_mailings(bill.branch_id if bill else client.branch_id)
    if channel is Channel.EMAIL:
        if not client.email:
            raise DomainError("no_email", _("This client has no e-mail address."))
        recipient = client.email
    else:
        recipient = _mobile(client, phone)
    if bill is not None:
        _check_bill(bill, client)
    if channel is Channel.EMAIL and not subject.strip():
        raise DomainError("subject_empty", _("Enter the subject of the letter."), "subject")
    if not text.strip():
        raise DomainError("text_empty", _("Enter the text of the message."), "text")
    body = render(text.strip(), client=client, bill=bill, field="text")
    length = None
    if channel is Channel.SMS:
        body = body.replace("\r\n", "\n")
        length = sms_length(body)
        if length.parts > MAX_SMS_PARTS:
            raise DomainError(
                "sms_too_long",
                _("This text takes %(parts)s SMS; %(most)s at most are sent.", parts=length.parts, most=MAX_SMS_PARTS),
                "text",
            )
        subject = ""
    else:
        subject = " ".join(render(subject, client=client, bill=bill, field="subject").split())[:500]
    return Draft(channel, recipient, subject, body, length)


def _mobile(client: Client, phone: str | None) -> str:
    """The number an SMS goes to. The texts do not name it: not everybody sees phones."""
    phone = phone or client.mobile_phone or client.phone or client.extra_phone
    if not phone:
        raise DomainError("no_phone", _("This client has no phone."))
    kinds = {client.extra_phone: client.extra_phone_kind, client.phone: client.phone_kind}
    if phone not in kinds:
        raise DomainError("phone_foreign", _("This client has another phone by now. Open the form again."))
    if kinds[phone] is not PhoneKind.MOBILE:
        raise DomainError(
            "phone_not_mobile",
            _(
                "SMS are sent only to phones of the type “%(mobile)s”; the type of this one is “%(kind)s”. If it is a "
                "mobile phone, change its type in the client's card.",
                mobile=PhoneKind.MOBILE.label,
                kind=kinds[phone].label,
            ),
        )
    if is_landline(phone):
        raise DomainError("phone_landline", landline_text())
    return phone


def _check_bill(bill: Bill, client: Client) -> None:
    if bill.client_id not in (client.id, client.payer_id):
        raise DomainError("bill_foreign", _("This bill belongs to another client."), "bill")
    if bill.status is BillStatus.ARCHIVED:
        raise DomainError("bill_archived", _("This bill is in the archive: its link leads nowhere."), "bill")
    if bill.link_revoked_at is not None:
        raise DomainError("bill_revoked", _("The link of this bill has been taken back: it leads nowhere."), "bill")


def send_message_to(
    client: Client,
    *,
    text: str,
    by: Actor,
    subject: str = "",
    channel: Channel = Channel.EMAIL,
    phone: str | None = None,
    bill: Bill | None = None,
) -> Message:
    """Queue a message from a client's card, as draft_message_to() shows it. The caller commits."""
    draft = draft_message_to(client, text=text, by=by, subject=subject, channel=channel, phone=phone, bill=bill)
    message = queue_message(
        client,
        channel=draft.channel,
        recipient=draft.recipient,
        subject=draft.subject,
        body=draft.body,
        dedupe_key=f"manual:{uuid.uuid4()}",
        bill=bill,
        by=by,
    )
    ring(DELIVER)
    return message


def queue_message(
    client: Client,
    *,
    recipient: str,
    body: str,
    dedupe_key: str,
    by: Actor,
    channel: Channel = Channel.EMAIL,
    subject: str = "",
    bill: Bill | None = None,
    run: MailingRun | None = None,
) -> Message:
    """Write the outbox row of a ready message in the caller's transaction; the caller rings.

    Every message goes through here, by hand or not: whether a company may send any at all is asked in this place.
    Raises DomainError "mailings_off" before anything is written.
    """
    check_mailings(bill.branch_id if bill else client.branch_id)
    now = clock.now()
    message = Message(
        branch_id=bill.branch_id if bill else client.branch_id,
        channel=channel,
        client_id=client.id,
        bill_id=bill.id if bill else None,
        run_id=run.id if run else None,
        recipient=recipient,
        subject=" ".join(subject.split())[:500],
        body=body,
        dedupe_key=dedupe_key,
        next_try_at=now,
        created_at=now,
        author_id=by.id,
        author_name=str(by.name),
    )
    db.session.add(message)
    db.session.flush()
    return message


def resend_messages(messages: Sequence[Message], *, by: Actor) -> int:
    """Queue letters that failed, or whose fate is unknown, once more: a person's decision. How many were queued.

    Raises DomainError "mailings_off". The caller commits.
    """
    queued = 0
    for message in messages:
        require(by, "message.send", message)
        check_mailings(message.branch_id)
        if message.status in (MessageStatus.FAILED, MessageStatus.UNKNOWN):
            queued += move_message(
                message.id, message.status, MessageStatus.PENDING, attempts=0, next_try_at=clock.now(), error=""
            )
            db.session.refresh(message)
    if queued:
        ring(DELIVER)
    return queued


# --- what the bell missed --------------------------------------------------------------------------------------------


def ring_for_waiting(*, now: datetime) -> None:
    """Ring again for every run and letter that waits: their bell may have been lost. The caller commits."""
    waiting = select(MailingRun.id).where(
        or_(
            MailingRun.status == RunStatus.PLANNED,
            (MailingRun.status == RunStatus.RUNNING) & (MailingRun.lease_until <= now),
        )
    )
    for run_id in db.session.scalars(waiting.order_by(MailingRun.id)):
        ring(EXECUTE_RUN, run_id)
    due = select(Message.id).where(Message.status == MessageStatus.PENDING, Message.next_try_at <= now).limit(1)
    if db.session.scalar(due) is not None:
        ring(DELIVER)


__all__ = [
    "DELIVER",
    "EXECUTE_RUN",
    "address_of",
    "draft_message_to",
    "plan_due_runs",
    "queue_message",
    "resend_messages",
    "ring_for_waiting",
    "run_now",
    "save_rule",
    "save_template",
    "send_message_to",
]
