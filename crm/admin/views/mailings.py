"""Mailing rules, their runs, templates, messages."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from flask import g, request
from flask_admin import expose
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from flask_login import current_user
from markupsafe import Markup
from wtforms import BooleanField, IntegerField, SelectField, StringField, TextAreaField, TimeField, validators
from wtforms.fields.choices import SelectChoice

from crm.access.models import Branch
from crm.admin.base import BulkAction, KontoraView, permission
from crm.admin.fields import REQUIRED, EnumField, Form, ReferenceField
from crm.admin.kinds import NOTHING, IntegerKind, Kind, Place
from crm.admin.mailing_option import OptionNotice, option_notice, option_notices
from crm.admin.views.clients import working_branches
from crm.clients.queries import client_matches
from crm.db import db
from crm.errors import DomainError
from crm.mailings.models import (
    BilledAccounts,
    BillingMethod,
    Channel,
    MailingKind,
    MailingRun,
    MailingRunLine,
    Message,
    Periodicity,
    Template,
    Term,
)
from crm.mailings.operations import resend_messages
from crm.mailings.rules import RuleFacts, Way, save_rule
from crm.mailings.runs import run_now
from crm.mailings.tags import all_tags
from crm.mailings.templates import save_template
from crm.phones import format_phone
from crm.protocol import ProtocolLine
from crm.security import chosen_branch

WEEKDAYS = (_l("Monday"), _l("Tuesday"), _l("Wednesday"), _l("Thursday"), _l("Friday"), _l("Saturday"), _l("Sunday"))


class WeekdayKind(IntegerKind):
    """A day of the week by its number, 0 Monday."""

    def show(self, value: Any, place: Place) -> str | Markup:
        return NOTHING if value is None else str(WEEKDAYS[value])


class RecipientKind(Kind):
    """An e-mail address or a phone."""

    def show(self, value: Any, place: Place) -> str | Markup:
        return format_phone(value) if value and value.startswith("+") else super().show(value, place)


class TemplateForm(Form):
    name = StringField(_l("Name"), [REQUIRED, validators.Length(max=200)])
    channel = EnumField(Channel, _l("Way of sending"), default=Channel.EMAIL)
    subject = StringField(
        _l("Subject of the letter"),
        [validators.Length(max=200)],
        description=_l("Of an e-mail; an SMS has none."),
    )
    body = TextAreaField(_l("Text"), [REQUIRED, validators.Length(max=20000)], render_kw={"rows": 12})
    is_thanks = BooleanField(
        _l("Send by itself after a payment"),
        description=_l("Thanks for the payment of a bill: by e-mail, or as an SMS to whoever has no e-mail address."),
    )


class TemplateView(KontoraView):
    entity = "template"
    icon = "file-earmark-text"
    column_list = ("name", "channel", "subject", "is_thanks")
    column_details_list = ("name", "channel", "subject", "body", "is_thanks")
    column_searchable_list = ("name", "subject")
    column_filters = ("channel", "is_thanks")
    column_labels = {"is_thanks": _l("After a payment")}
    column_default_sort = "name"
    form = TemplateForm
    creates = edits = True
    create_label = _l("Add a template")
    create_template = edit_template = "admin/template_form.html"

    def save_new(self, form: Any) -> Any:
        return save_template(None, **form.data, by=current_user)

    def save(self, form: Any, row: Any) -> Any:
        return save_template(row, **form.data, by=current_user)

    def answer(self, form: Any, change: Any, **kwargs: Any) -> Any:
        return super().answer(form, change, template="admin/template_form.html", tags=all_tags().values(), **kwargs)


class RuleForm(Form):
    """Three sections, as the screen shows them: what, when, how."""

    SECTIONS = (
        (
            _l("What do we send?"),
            ("name", "branch", "kind", "method", "accounts", "term", "term_days", "is_repeatable"),
        ),
        (_l("When do we send?"), ("is_active", "periodicity", "send_time", "weekday", "month_day")),
        (_l("How do we send?"), ("way", "template")),
    )

    name = StringField(_l("Name"), [REQUIRED, validators.Length(max=200)])
    branch = ReferenceField(Branch, _l("Branch"), query=working_branches)
    kind = EnumField(MailingKind, _l("Type of mailing"))
    method = EnumField(BillingMethod, _l("Calculation method"))
    accounts = EnumField(BilledAccounts, _l("Type of calculations"))
    term = EnumField(Term, _l("Payment term"), default=Term.UNLIMITED)
    term_days = IntegerField(_l("Payment term, days"), [validators.Optional(), validators.NumberRange(1, 366)])
    is_repeatable = BooleanField(_l("The bill may be paid repeatedly"))
    is_active = BooleanField(_l("The mailing is on"), default=True)
    periodicity = EnumField(Periodicity, _l("Periodicity"))
    send_time = TimeField(_l("Time"), [REQUIRED], description=_l("On the clock of the branch."))
    weekday = SelectField(
        _l("Day of the week"),
        choices=[SelectChoice("", "—"), *(SelectChoice(str(i), name) for i, name in enumerate(WEEKDAYS))],
        coerce=lambda value: None if value in {None, "", "None"} else int(value),
        description=_l("For a weekly mailing."),
    )
    month_day = IntegerField(
        _l("Day of the month"),
        [validators.Optional(), validators.NumberRange(1, 31)],
        description=_l("For a monthly mailing; in a shorter month its last day."),
    )
    way = EnumField(Channel, _l("Way of sending"))
    template = ReferenceField(Template, _l("Template"))

    @property
    def facts(self) -> RuleFacts:
        """The rule as the operations take it."""
        data = dict(self.data)
        way = Way(data.pop("way"), data.pop("template"))
        return RuleFacts(**data, ways=[way])


class MailingRuleView(KontoraView):
    entity = "mailingrule"
    icon = "send"
    column_list = ("name", "kind", "periodicity", "send_time", "is_active", "branch")
    column_labels = {
        "kind": _l("Type of mailing"),
        "is_active": _l("On"),
        "accounts": _l("Type of calculations"),
        "method": _l("Calculation method"),
        "weekday": _l("Day of the week"),
    }
    column_kinds = {"weekday": WeekdayKind()}
    column_searchable_list = ("name",)
    column_filters = ("is_active", "periodicity", "branch")
    form = RuleForm
    creates = edits = True
    create_label = _l("Add a mailing")
    list_template = "admin/rules.html"
    details_template = "admin/rule.html"
    empty_hint = _l("Add a mailing: bills will be issued and sent by themselves.")

    def save_new(self, form: Any) -> Any:
        return save_rule(None, form.facts, by=current_user)

    def save(self, form: Any, row: Any) -> Any:
        return save_rule(row, form.facts, by=current_user)

    def details_context(self, row: Any) -> dict[str, Any]:
        runs = sa.select(MailingRun).where(MailingRun.rule_id == row.id).order_by(MailingRun.id.desc()).limit(20)
        return {"runs": list(db.session.scalars(runs)), "may_run": self.may("run"), "option": option_notice(row.branch)}

    def option_notices(self) -> list[OptionNotice]:
        """Of the companies whose mailings are listed here."""
        here = chosen_branch()
        return option_notices([here] if here is not None else g.branches)

    @expose("/run/", methods=("POST",))
    @permission("run")
    def run_view(self) -> Any:
        """ "Run now": a planned run of this very moment, carried out by a worker."""
        rule = self.get_one(request.form.get("id"))
        return self.answer(
            Form(request.form),
            lambda: run_now(rule, by=current_user),
            title=rule.name,
            back=self.row_url(rule),
            done=lambda run: self.view_of(MailingRun).row_url(run),  # type: ignore[union-attr]
            said=_l("The mailing has been started."),
            submit=_("Run now"),
        )


class MailingRunView(KontoraView):
    entity = "mailingrun"
    icon = "list-check"
    column_list = ("id", "rule", "planned_at", "status", "is_manual", "total", "started_at", "finished_at", "branch")
    column_filters = ("status", "planned_at", "branch")
    column_default_sort = "-id"
    details_template = "admin/run.html"
    empty_hint = _l("Every execution of a mailing appears here, with what was done for each client.")

    def details_context(self, row: Any) -> dict[str, Any]:
        lines = (
            sa.select(MailingRunLine)
            .where(MailingRunLine.run_id == row.id)
            .options(sa.orm.joinedload(MailingRunLine.client), sa.orm.joinedload(MailingRunLine.bill))
            .order_by(MailingRunLine.id)
            .limit(1001)
        )
        found = list(db.session.scalars(lines))
        return {"lines": found[:1000], "is_cut": len(found) > 1000}


class MessageView(KontoraView):
    entity = "message"
    icon = "envelope"
    column_list = (
        "created_at",
        "client",
        "channel",
        "recipient",
        "subject",
        "body",
        "status",
        "sent_at",
        "error",
        "author_name",
    )
    column_details_list = (
        *("created_at", "client", "bill", "channel", "recipient", "subject", "body", "status", "attempts"),
        *("sent_at", "error", "external_id", "author_name"),
    )
    column_filters = ("status", "channel", "created_at", "sent_at")
    column_sortable_list = ("created_at", "client", "recipient", "status", "sent_at", "author_name")
    column_default_sort = "-id"
    column_kinds = {"recipient": RecipientKind()}
    column_labels = {"external_id": _l("The provider's number")}
    empty_hint = _l("Letters and SMS to clients appear here, with their fate.")
    has_search = True

    def bulk_actions(self) -> list[BulkAction]:
        return [
            BulkAction(
                "resend",
                _l("Send once more"),
                "send",
                _l("Only messages that were not sent, or may not have been, are sent again."),
                self._resend,
                is_dangerous=False,
            )
        ]

    @staticmethod
    def _resend(ids: list[int]) -> list[ProtocolLine]:
        lines = []
        for message in db.session.scalars(sa.select(Message).where(Message.id.in_(ids)).order_by(Message.id)):
            try:
                is_queued = resend_messages([message], by=current_user)
                refusal = None if is_queued else _("Not sent again: %(status)s", status=message.status.label)
            except DomainError as error:
                refusal = str(error)
            label = f"{message.recipient}: {message.subject or message.body[:80]}"
            lines.append(ProtocolLine(message.id, label, refusal))
        return lines

    def search_condition(self, text: str) -> Any:
        by_client = client_matches(Message.client_id, text, by=current_user)
        if "recipient" in self.field_rules().hidden:
            return by_client
        return sa.or_(by_client, Message.recipient.icontains(text, autoescape=True))
