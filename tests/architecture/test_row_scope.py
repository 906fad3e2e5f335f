"""Every table is either scoped to a branch or listed here as network-wide, with the reason."""

from __future__ import annotations

from typing import Any

from crm.access.scope import BranchScoped
from crm.db import Base, db

NETWORK_TABLES = {
    "account_type": "made for the network, offered in its branches",
    "account_type_branch": "where an account type is offered",
    "audit_entry": "lines of no branch exist; the audit view filters by branch itself",
    "background_job": "belongs to its author, who alone sees it",
    "bill_bundle_bill": "read through its bundle, which is scoped",
    "bill_counter": "numbers run per company",
    "bill_line": "read through its bill, which is scoped",
    "bill_subscription": "read through its bill, which is scoped",
    "branch": "the places themselves",
    "city": "the places themselves",
    "company": "legal entities",
    "client_password": "read through its client, who is scoped",
    "contact": "read through its client, who is scoped",
    "contact_link": "read through its client, who is scoped; its token is the key of a page of strangers",
    "contract_template": "texts of a company",
    "cron_tick": "the scheduler's memory",
    "custom_field": "the fields of a company, of all its branches",
    "demo_bank_payment": "belongs to the stand-in bank, which knows no branches",
    "demo_bank_refund": "belongs to the stand-in bank, which knows no branches",
    "employee": "staff of the network, chosen from in forms of their branch",
    "export_delivery": "read through its schedule",
    "export_letter": "read through its schedule",
    "export_schedule": "belongs to its owner, who alone sees it",
    "field_setting": "what a company hides, in all its branches",
    "gateway_notice": "what payment services sent, before it is known whose it is",
    "grid_layout": "a person's own",
    "import_line": "read through its upload",
    "import_matching": "a person's own memory of column names",
    "import_run": "files are imported for the network",
    "import_upload": "belongs to who sent the file, who alone sees it",
    "imported_row": "lines of an import run",
    "job_line": "read through its job",
    "ledger_entry": "read through its transaction or account, which are scoped",
    "lesson_type": "kinds of lessons of the network",
    "ledger_mark": "how far the summing of all branches has got",
    "login_attempt": "before anybody is signed in",
    "mailing_run_line": "read through its run, which is scoped",
    "mailing_way": "read through its rule, which is scoped",
    "message_bill": "read through its message, which is scoped",
    "message_charge": "what a company pays for; read through its message, which is scoped",
    "message_choice": "read through its client, who is scoped",
    "payment_code": "read through its bill, which is scoped",
    "payment_event": "read through its payment, which is scoped",
    "plan": "price list of the network",
    "plan_branch": "where a plan is sold",
    "plan_lesson_type": "what a plan is good for",
    "plan_subject": "what a plan is good for",
    "provider": "a company's contracts with services of messages",
    "role_settings": "what a role may, in the whole network",
    "saved_view": "a person's own or shared with a role; its rows are asked for in the scope of who opens it",
    "shop": "a company's contracts with payment services",
    "subject": "what is taught in the network",
    "submitted_form": "keys of forms carried out, of whatever branch",
    "subscription_freeze": "read through its subscription, which is scoped",
    "template": "texts of the network",
    "user": "staff of the network",
    "user_branch": "where a user works",
    "user_city": "where a user works",
}


def _scoped_tables() -> set[str]:
    """Tables that say the branch of a scoped model, which may be mapped onto a join of several."""
    scoped = [mapper for mapper in Base.registry.mappers if issubclass(mapper.class_, BranchScoped)]
    return {column.table.name for mapper in scoped for column in mapper.c.branch_id.base_columns}


def test_every_table_has_a_place(app: Any) -> None:
    unscoped = {table.name for table in db.metadata.tables.values()} - _scoped_tables()
    assert unscoped == set(NETWORK_TABLES)


def test_people_and_money_are_scoped() -> None:
    assert {"client", "account", "ledger_transaction", "bill", "payment", "subscription", "message"} <= _scoped_tables()


def test_scoped_rows_always_have_a_branch() -> None:
    for name in _scoped_tables():
        assert not db.metadata.tables[name].c.branch_id.nullable, name
