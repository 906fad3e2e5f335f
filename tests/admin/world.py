"""One row of everything in a branch, for tests that walk all the panel's views."""

from __future__ import annotations

from typing import Any

from flask import Flask
from sqlalchemy import select

from crm.access.actors import SYSTEM
from crm.access.models import Branch, Role
from crm.admin.base import KontoraView
from crm.audit.models import AuditEntry
from crm.db import db, transaction
from crm.mailings.operations import run_now
from tests.factories import (
    make_account,
    make_account_type,
    make_bill,
    make_client,
    make_employee,
    make_message,
    make_payment,
    make_plan,
    make_rule,
    make_subscription,
    make_template,
    make_user,
)

# Of the whole network: the row scope does not know them.
NETWORK_WIDE = frozenset({"accounttype", "plan", "template", "city", "company"})


def views(app: Flask) -> list[KontoraView]:
    """Every registered view but the home page."""
    return [view for view in app.extensions["admin"][0]._views if isinstance(view, KontoraView)]


def one_of_each(branch: Branch, mark: str) -> dict[str, int]:
    """Ids by entity of rows in `branch`; those of the branch, and no others, carry `mark`."""
    client = make_client(branch, name=f"{mark} Клиент", comment=mark)
    account = make_account(client, make_account_type(branch), balance=700)
    plan, template = make_plan(), make_template()
    rule = make_rule(branch, template=template, name=f"{mark} Рассылка")
    with transaction():
        run = run_now(rule, by=SYSTEM)
    audited = select(AuditEntry.id).where(AuditEntry.entity == "client", AuditEntry.entity_id == client.id)
    return {
        "client": client.id,
        "account": account.id,
        "accounttype": account.account_type_id or 0,
        "bill": make_bill(client).id,
        "subscription": make_subscription(client, plan).id,
        "plan": plan.id,
        "payment": make_payment(account, comment=mark).id,
        "message": make_message(client, subject=mark).id,
        "template": template.id,
        "mailingrule": rule.id,
        "mailingrun": run.id,
        "employee": make_employee(branch, name=f"{mark} Сотрудник").id,
        "user": make_user(Role.ADMINISTRATOR, branches=[branch], name=f"{mark} Администратор").id,
        "branch": branch.id,
        "city": branch.city_id,
        "company": branch.company_id,
        "audit": db.session.scalar(audited) or 0,
    }


def fields(page: str) -> dict[str, Any]:
    """What a browser would send of the page's form untouched: hidden inputs, typed values, ticks and choices."""
    from html.parser import HTMLParser

    class Reader(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.form: dict[str, Any] = {}
            self.is_inside = False
            self.name: str | None = None
            self.kind = ""

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            facts = {key: value or "" for key, value in attrs}
            if tag == "form":
                self.is_inside = facts.get("method") == "post" and not facts.get("action")
            if not self.is_inside:
                return
            name = facts.get("name")
            if tag == "input" and name:
                if facts.get("type") in {"checkbox", "radio"}:
                    if "checked" in facts:
                        self.form.setdefault(name, []).append(facts.get("value", "y"))
                else:
                    self.form[name] = facts.get("value", "")
            elif tag in {"select", "textarea"} and name:
                self.name, self.kind, self.form[name] = name, tag, "" if tag == "textarea" else None
            elif tag == "option" and self.name and (self.form[self.name] is None or "selected" in facts):
                self.form[self.name] = facts.get("value", "")

        def handle_endtag(self, tag: str) -> None:
            if tag == "form":
                self.is_inside = False
            if tag == self.kind:
                self.name = None

        def handle_data(self, data: str) -> None:
            if self.name and self.kind == "textarea":
                self.form[self.name] += data.removeprefix("\r\n").removeprefix("\n")

    reader = Reader()
    reader.feed(page)
    return {name: value for name, value in reader.form.items() if value is not None and name != "csrf_token"}
