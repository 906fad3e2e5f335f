"""One row of everything in a branch, for tests that walk all the panel's views."""

from __future__ import annotations

import html
import re
from datetime import date
from html.parser import HTMLParser
from typing import Any

from flask import Flask
from flask_babel import force_locale, gettext
from sqlalchemy import select

from crm.access.actors import SYSTEM
from crm.access.models import Branch, Company, Employee, Role, RoleSettings, User
from crm.admin.base import KontoraView
from crm.audit.models import AuditEntry
from crm.clients.models import Client
from crm.contracts.models import ContractTemplate
from crm.contracts.operations import save_contract
from crm.db import db, transaction
from crm.fields.models import FieldType
from crm.fields.operations import add_field
from crm.fields.queries import all_fields
from crm.ledger.models import Entry
from crm.ledger.operations import base_account
from crm.mailings.models import Provider
from crm.mailings.runs import run_now
from crm.schedule.models import Waiting
from crm.schedule.waiting import add_to_waiting_list
from crm.tills.movements import Movement
from tests.factories import (
    make_account,
    make_account_type,
    make_bill,
    make_booking,
    make_charge,
    make_client,
    make_employee,
    make_group,
    make_holiday,
    make_job,
    make_lesson,
    make_lesson_type,
    make_message,
    make_notice,
    make_payment,
    make_plan,
    make_provider,
    make_refund,
    make_room,
    make_rule,
    make_schedule,
    make_shift,
    make_shop,
    make_subject,
    make_subscription,
    make_task,
    make_template,
    make_till,
    make_user,
    make_visit,
)

# Of the whole network: the row scope does not know them.
NETWORK_WIDE = frozenset(
    {"accounttype", "plan", "template", "city", "company", "field", "contract", "role", "subject", "lessontype", "shop"}
    | {"provider"}
)
# A person's own, whatever his role; nobody else's exist for him.
PERSONAL = frozenset({"job", "exportschedule"})


def views(app: Flask) -> list[KontoraView]:
    """Every registered view but the home page."""
    return [view for view in app.extensions["admin"][0]._views if isinstance(view, KontoraView)]


def one_of_each(branch: Branch, mark: str) -> dict[str, int]:
    """Ids by entity of rows in `branch`; those of the branch, and no others, carry `mark`."""
    client = make_client(branch, name=f"{mark} Клиент", comment=mark)
    account = make_account(client, make_account_type(branch), balance=700)
    plan, template = make_plan(), make_template()
    _one_field_each(branch)
    rule = make_rule(branch, template=template, name=f"{mark} Рассылка")
    with transaction():
        run = run_now(rule, by=SYSTEM)
    audited = select(AuditEntry.id).where(AuditEntry.entity == "client", AuditEntry.entity_id == client.id)
    administrator = make_user(Role.ADMINISTRATOR, branches=[branch], name=f"{mark} Администратор")
    director = make_user(Role.DIRECTOR, branches=[branch], name=f"{mark} Директор")
    shift = make_shift(make_till(branch, name=f"{mark} Касса", money=50, uses_shifts=True))
    moved = select(Movement.id).where(Movement.till_id == shift.till_id)
    operation = db.session.scalars(select(Entry).where(Entry.account_id == account.id)).one()
    lesson = make_lesson(branch, client, topic=mark, instructor=_instructor(branch, mark))
    return {
        "client": client.id,
        "entry": operation.id,
        "transaction": operation.transaction_id,
        "field": all_fields("bill", {branch.company_id})[0].id,
        "contract": _contract(branch).id,
        "account": account.id,
        "accounttype": account.account_type_id or 0,
        "bill": make_bill(client).id,
        "subscription": make_subscription(client, plan).id,
        "till": shift.till_id,
        "shift": shift.id,
        "cashflow": db.session.scalars(moved).one(),
        "debtor": base_account(client.id, branch.id).id,
        "plan": plan.id,
        "visit": make_visit(client, comment=mark).id,
        "subject": make_subject().id,
        "lessontype": make_lesson_type().id,
        "room": make_room(branch, name=f"{mark} Зал").id,
        "booking": make_booking(make_room(branch), comment=mark).id,
        "holiday": make_holiday(branch, date(2027, 1, 1), name=mark).id,
        "payment": (payment := make_payment(account, comment=mark)).id,
        "refund": make_refund(account, reason=mark).id,
        "notice": make_notice(result=mark, payment_id=payment.id).id,
        "message": make_message(client, subject=mark).id,
        "template": template.id,
        "mailingrule": rule.id,
        "mailingrun": run.id,
        "task": make_task(branch, text=mark, client=client, assignee=_who_sees_his_own(branch)).id,
        "waiting": _waiting(make_client(branch, name=f"{mark} Ждущий"), mark).id,
        "clientgroup": make_group(branch, name=f"{mark} Группа").id,
        "lesson": lesson.id,
        "attendance": lesson.attendances[0].id,
        "employee": make_employee(branch, name=f"{mark} Сотрудник").id,
        "user": administrator.id,
        "job": make_job(administrator, title=mark).id,
        "exportschedule": make_schedule(director, name=mark, branch_id=branch.id).id,
        "branch": branch.id,
        "city": branch.city_id,
        "company": branch.company_id,
        "shop": make_shop(branch, shop_id=str(700_000 + branch.id), name=f"Магазин {branch.id}").id,
        "provider": _provider(branch).id,
        "messagecharge": make_charge(make_message(client, subject=mark)).id,
        "role": db.session.scalars(select(RoleSettings.id).where(RoleSettings.role == Role.MANAGER)).one(),
        "audit": db.session.scalar(audited) or 0,
    }


def _waiting(client: Client, comment: str) -> Waiting:
    with transaction():
        return add_to_waiting_list(client, comment=comment, by=SYSTEM)


def _provider(branch: Branch) -> Provider:
    """A company has one of a channel."""
    query = select(Provider).where(Provider.company_id == branch.company_id)
    return db.session.scalars(query).first() or make_provider(branch.company)


def _who_sees_his_own(branch: Branch) -> User | None:
    """The branch's user who sees his own lessons and tasks alone, if it has one."""
    query = select(User).where(User.role == Role.INSTRUCTOR, User.branches.any(Branch.id == branch.id))
    return db.session.scalars(query).first()


def _instructor(branch: Branch, mark: str) -> Employee:
    user = _who_sees_his_own(branch)
    return make_employee(branch, name=f"{mark} Инструктор", user_id=user.id if user is not None else None)


def _contract(branch: Branch) -> ContractTemplate:
    with transaction():
        company = db.session.get_one(Company, branch.company_id)
        return save_contract(
            None, company=company, name="Договор", body="Клиент: {customer.name}", is_archived=False, by=SYSTEM
        )


def _one_field_each(branch: Branch) -> None:
    """Bills, accounts and subscriptions have nothing to edit but what staff have added."""
    with transaction():
        for entity in ("account", "bill", "subscription"):
            if not all_fields(entity, {branch.company_id}):
                company = db.session.get_one(Company, branch.company_id)
                add_field(company, entity, label="Примечание", type=FieldType.TEXT, by=SYSTEM)


class _FormReader(HTMLParser):
    """Collects the fields of the page's own form: the POST one without an address of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.form: dict[str, Any] = {}
        self.is_inside = False
        self.open: tuple[str, str] | None = None  # (tag, name) of the select or textarea being read

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        facts = {key: value or "" for key, value in attrs}
        if tag == "form":
            self.is_inside = facts.get("method") == "post" and "action" not in facts
        name = facts.get("name", "")
        if not self.is_inside:
            return
        if tag == "input" and facts.get("type") == "checkbox":
            if "checked" in facts:
                self.form.setdefault(name, []).append(facts.get("value", "y"))
        elif tag == "input" and facts.get("type") == "time" and name in self.form:  # several of one name
            told = self.form[name]
            self.form[name] = [*(told if isinstance(told, list) else [told]), facts.get("value", "")]
        elif tag == "input" and name:
            self.form[name] = facts.get("value", "")
        elif tag in {"select", "textarea"}:
            self.open = (tag, name)
            self.form[name] = "" if tag == "textarea" else None  # a select sends its first option unless told
        elif tag == "option" and self.open and ("selected" in facts or self.form[self.open[1]] is None):
            self.form[self.open[1]] = facts.get("value", "")

    def handle_endtag(self, tag: str) -> None:
        self.is_inside = self.is_inside and tag != "form"
        if self.open and tag == self.open[0]:
            self.open = None

    def handle_data(self, data: str) -> None:
        if self.open and self.open[0] == "textarea":
            self.form[self.open[1]] += data


def fields(page: str) -> dict[str, Any]:
    """What a browser would send of the page's form untouched; texts of areas without the line break HTML adds."""
    reader = _FormReader()
    reader.feed(page)
    form = {name: value.lstrip("\r\n") if isinstance(value, str) else value for name, value in reader.form.items()}
    return {name: value for name, value in form.items() if value is not None and name != "csrf_token"}


def send(client: Any, path: str, **changes: Any) -> Any:
    """Open the form at `path`, change some of its fields and send it; a change to None leaves the field out."""
    page = client.get(path)
    assert page.status_code == 200, page.status_code
    form = {**fields(page.text), **changes}
    return client.post(path, data={name: value for name, value in form.items() if value is not None})


def row_counts(*, done: int = 0, skipped: int = 0, failed: int = 0) -> str:
    """What the page of a job says of its rows."""
    with force_locale("ru"):
        text = "Done: %(done)s, nothing to do: %(skipped)s, with errors: %(failed)s."
        return gettext(text, done=done, skipped=skipped, failed=failed)


def errors(page: str) -> dict[str, str]:
    """Texts beside the fields, by field; those above the form under the empty name."""
    beside = re.findall(r'<div class="invalid-feedback[^"]*" id="([^"]+)-error">(.*?)</div>', page, re.DOTALL)
    above = re.findall(r'<div class="alert alert-danger[^"]*" role="alert">(.*?)</div>', page, re.DOTALL)
    return {name: html.unescape(text) for name, text in [*beside, *(("", text) for text in above)]}
