"""The author of an operation is who was signed in: no form can say otherwise, and nothing can change it afterwards.

Imports: tests/admin/test_import.py; SQL: tests/ledger/test_history.py and tests/architecture/test_append_only.py.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import select

from crm.db import db
from crm.ledger.history import AccountOperation
from crm.ledger.models import Account, Transaction
from tests.admin.world import send
from tests.factories import make_account, make_account_type, make_client

pytestmark = pytest.mark.spec("A23", "X17")


def top_up(account: Account) -> tuple[str, dict[str, str]]:
    return f"/admin/account/{account.id}/top-up/", {"amount": "5", "method": "cash"}


def write_off(account: Account) -> tuple[str, dict[str, str]]:
    return f"/admin/account/{account.id}/write-off/", {"amount": "5", "reason": "Материалы"}


def refund(account: Account) -> tuple[str, dict[str, str]]:
    return f"/admin/account/{account.id}/refund/", {"amount": "5", "method": "cash"}


def transfer(account: Account) -> tuple[str, dict[str, str]]:
    other = make_account(account.client, make_account_type(db.session.get_one(Account, account.id).branch))
    return f"/admin/account/{account.id}/transfer/", {"amount": "5", "target": str(other.id)}


def correct(account: Account) -> tuple[str, dict[str, str]]:
    posted = db.session.scalars(select(AccountOperation.transaction_id)).one()
    return f"/admin/account/operation/{posted}/reverse/", {"comment": "Ошиблись"}


def open_account(account: Account) -> tuple[str, dict[str, str]]:
    path = f"/admin/client/card/{account.client_id}/account/new/"
    return path, {"account_type": str(account.account_type_id), "initial_balance": "5", "method": "cash"}


def sell(account: Account) -> tuple[str, dict[str, str]]:
    return f"/admin/client/card/{account.client_id}/subscription/new/", {}


FORMS = (top_up, write_off, refund, transfer, correct, open_account, sell)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_forged_fields_of_a_form_are_not_heard(
    network: Any, web: Any, form: Callable[[Account], tuple[str, dict[str, str]]]
) -> None:
    account = make_account(make_client(network.lesnoy), balance=Decimal(100))
    before = db.session.scalar(select(Transaction.id).order_by(Transaction.id.desc()).limit(1)) or 0
    path, sent = form(account)
    forged = {"author_id": str(network.owner.id), "author_name": network.owner.name, "author": str(network.owner.id)}
    answer = send(web(network.director, network.lesnoy), path, **sent, **forged)
    assert answer.status_code == 302, answer.text
    posted = db.session.scalars(select(Transaction).where(Transaction.id > before)).all()
    assert posted
    authors = {(row.author_id, row.author_name) for row in posted}
    assert authors == {(network.director.id, network.director.name)}


@pytest.mark.parametrize("verb", ["new", "edit", "cell", "delete"])
def test_no_page_changes_an_operation(network: Any, web: Any, verb: str) -> None:
    make_account(make_client(network.lesnoy), balance=100, by=network.administrator)
    row = db.session.scalars(select(AccountOperation)).one()
    data = {"id": str(row.id), "author_name": "Другой", "column": "author_name", "value": "Другой"}
    answer = web(network.owner).post(f"/admin/entry/{verb}/?id={row.id}", data=data)
    assert answer.status_code in {403, 404, 405}
    assert db.session.scalars(select(Transaction.author_name)).one() == network.administrator.name
