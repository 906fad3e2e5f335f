"""A deposit is closed at zero or with its rest moved; money that comes late is not lost."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from time import sleep
from typing import Any

import pytest
from sqlalchemy import select

from crm.access.actors import SYSTEM
from crm.audit.models import AuditEntry
from crm.bills.models import Bill, BillStatus
from crm.bills.operations import archive_bill, issue_bill
from crm.clock import today
from crm.db import db, transaction
from crm.errors import DomainError, Forbidden
from crm.ledger.models import Account, TransactionKind
from crm.ledger.operations import base_account
from crm.ledger.queries import entries_of, open_accounts_of
from crm.payments.desk import close_account, reopen_account, write_off
from crm.payments.gateways.base import RemoteStatus
from crm.payments.models import Payment, PaymentMethod, PaymentStatus
from crm.payments.operations import accept_notice, pay_bill_at_desk, top_up
from tests.bank import TalkingBank, begin, pay_at, says
from tests.factories import make_account, make_bill, make_client, make_payment


def close(account: Account, **changes: Any) -> Account:
    with transaction():
        return close_account(account, **{"by": SYSTEM, **changes})


def refusal(account: Account, **changes: Any) -> tuple[str, str | None]:
    with pytest.raises(DomainError) as caught:
        close(account, **changes)
    assert not account.is_closed
    return caught.value.code, caught.value.field


def test_at_zero_and_opened_again(network: Any) -> None:
    account = make_account(make_client(network.lesnoy))
    close(account, by=network.director, comment="Больше не ходит")
    assert account.is_closed
    lines = db.session.scalars(select(AuditEntry).where(AuditEntry.entity == "account")).all()
    assert [line.changes["comment"] for line in lines if "comment" in line.changes] == [[None, "Больше не ходит"]]
    for refused in (
        lambda: top_up(account, amount=Decimal(1), method=PaymentMethod.CASH, by=SYSTEM),
        lambda: write_off(account, amount=Decimal(1), reason="Сбор", by=SYSTEM),
        lambda: close_account(account, by=SYSTEM),
    ):
        with pytest.raises(DomainError) as caught, transaction():
            refused()
        assert caught.value.code == "account_closed"
    with transaction():
        reopen_account(account, by=network.director)
    assert not account.is_closed
    make_payment(account, 5)
    assert account.balance == 5
    with pytest.raises(DomainError) as caught, transaction():
        reopen_account(account, by=SYSTEM)
    assert caught.value.code == "account_open"


def test_the_rest_goes_to_another_account_of_the_payer(network: Any) -> None:
    client = make_client(network.lesnoy)
    account, other = make_account(client, balance=Decimal("0.01")), make_account(client)
    stranger = make_account(make_client(network.lesnoy))
    assert refusal(account) == ("balance_left", "target")
    assert refusal(account, transfer_to=account) == ("account_same", "target")
    assert refusal(account, transfer_to=stranger) == ("account_foreign", "target")
    close(account, transfer_to=other, comment="Объединили")
    assert (account.balance, other.balance, account.is_closed) == (0, Decimal("0.01"), True)
    entry = db.session.scalars(entries_of(account)).first()
    assert entry is not None
    assert (entry.transaction.kind, entry.transaction.comment) == (TransactionKind.TRANSFER, "Объединили")


def test_the_rest_may_be_more_than_one_operation_may_enter(network: Any) -> None:
    client = make_client(network.lesnoy)
    account, other = make_account(client, balance=90_000_000), make_account(client)
    make_payment(account, 90_000_000)
    close(account, transfer_to=other, by=network.director)
    assert (account.balance, other.balance, account.is_closed) == (0, 180_000_000, True)


def test_only_deposits_and_only_by_who_may(network: Any) -> None:
    client = make_client(network.lesnoy)
    with transaction():
        base = base_account(client.id, client.branch_id)
    assert refusal(base)[0] == "not_a_deposit"
    with pytest.raises(Forbidden):
        close(make_account(client), by=network.administrator)


def test_not_while_a_bill_or_an_online_payment_is_awaited(network: Any, bank: Any) -> None:
    client = make_client(network.lesnoy)
    account = make_account(client)
    bill = make_bill(client, account=account)
    with pytest.raises(DomainError) as caught:
        close(account)
    assert caught.value.code == "bill_awaits"
    assert bill.title in str(caught.value)
    payment = begin(bill, bank)
    with transaction():
        archive_bill(bill, by=SYSTEM)
    assert refusal(account)[0] == "payment_pending"
    accept_notice(TalkingBank(says(RemoteStatus.CANCELED, "1500.00")), payment.external_id)
    close(account)
    assert account.is_closed


def test_money_that_comes_late_is_put_on_the_base_account(network: Any, bank: Any) -> None:
    """The bank takes back its word after the account was closed."""
    client = make_client(network.lesnoy)
    account = make_account(client)
    bill = make_bill(client, account=account)
    payment = begin(bill, bank)
    external_id = pay_at(bank, payment)
    accept_notice(TalkingBank(says(RemoteStatus.CANCELED, "1500.00")), payment.external_id)
    with transaction():
        archive_bill(bill, by=SYSTEM)
        close_account(account, by=SYSTEM)
    accept_notice(bank, external_id)
    accept_notice(bank, external_id)
    db.session.expire_all()
    with transaction():
        base = base_account(client.id, client.branch_id)
    assert (base.balance, account.balance) == (1500, 0)
    assert (payment.status, payment.account_id) == (PaymentStatus.SUCCEEDED, base.id)
    assert account.title in payment.comment
    [entry] = db.session.scalars(entries_of(base))
    assert entry.transaction.comment == payment.comment


def test_a_bill_paid_repeatedly_outlives_its_account(network: Any) -> None:
    client = make_client(network.lesnoy)
    account, other = make_account(client), make_account(client, balance=300)
    bill = make_bill(client, account=account, amount=Decimal(100), is_repeatable=True)
    with transaction():
        pay_bill_at_desk(bill, method=PaymentMethod.CASH, by=SYSTEM)
        close_account(account, transfer_to=other, by=SYSTEM)
    for method, source in ((PaymentMethod.CASH, None), (PaymentMethod.ACCOUNT, other)):
        with transaction():
            pay_bill_at_desk(bill, method=method, account=source, by=SYSTEM)
    with transaction():
        base = base_account(client.id, client.branch_id)
    assert (base.balance, other.balance, bill.payments_count) == (200, 300, 3)
    with pytest.raises(DomainError) as caught, transaction():
        pay_bill_at_desk(bill, method=PaymentMethod.ACCOUNT, account=base, by=SYSTEM)
    assert caught.value.code == "account_same"
    assert bill.status is BillStatus.PAID


def test_no_bill_is_issued_for_it(network: Any) -> None:
    client = make_client(network.lesnoy)
    account = make_account(client)
    close(account)
    assert open_accounts_of(client.id) == []
    day = today(network.lesnoy)
    with pytest.raises(DomainError) as caught, transaction():
        issue_bill(client, amount=Decimal(5), period_from=day, period_to=day, account=account, by=SYSTEM)
    assert (caught.value.code, caught.value.field) == ("account_closed", "account")


def test_closing_while_it_is_topped_up(network: Any, in_parallel: Callable[..., list[Any]]) -> None:
    """Either the money was first, or the closing: never money on a closed account."""
    for _ in range(4):
        account = make_account(make_client(network.lesnoy))
        account_id = account.id

        def act(index: int, account_id: int = account_id) -> str:
            found = db.session.get_one(Account, account_id)
            if index:
                make_payment(found, 5)
            else:
                close(found)
            return "done"

        results = in_parallel(act, 3)
        refused = [error.code for error in results if isinstance(error, DomainError)]
        db.session.expire_all()
        assert refused in (["balance_left"], ["account_closed"] * 2), results
        assert account.is_closed is (refused != ["balance_left"])
        assert account.balance == (0 if account.is_closed else 10)
    assert {payment.status for payment in db.session.scalars(select(Payment))} <= {PaymentStatus.SUCCEEDED}


def test_money_that_comes_while_it_is_being_closed(network: Any, in_parallel: Callable[..., list[Any]]) -> None:
    """Taken for a bill, it is on the deposit or, where that was closed first, on the base account: never refused."""
    for _ in range(6):
        client = make_client(network.lesnoy)
        account = make_account(client)
        bill = make_bill(client, account=account, amount=Decimal(100), is_repeatable=True)
        with transaction():
            pay_bill_at_desk(bill, method=PaymentMethod.CASH, by=SYSTEM)
            write_off(account, amount=Decimal(100), reason="Сбор", by=SYSTEM)
        account_id, bill_id = account.id, bill.id

        def act(index: int, account_id: int = account_id, bill_id: int = bill_id) -> None:
            if index:
                with transaction():
                    pay_bill_at_desk(db.session.get_one(Bill, bill_id), method=PaymentMethod.CASH, by=SYSTEM)
            else:
                with transaction():
                    close_account(db.session.get_one(Account, account_id), by=SYSTEM)
                    sleep(0.1)

        closed, paid = in_parallel(act, 2)
        assert paid is None, paid
        assert closed is None or closed.code == "balance_left", closed
        db.session.expire_all()
        base = base_account(client.id, client.branch_id)
        assert (account.balance, base.balance) == ((0, 100) if account.is_closed else (100, 0))
