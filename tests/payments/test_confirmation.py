"""Codes that confirm a payment from the payer's own account."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest
from sqlalchemy import select

from crm import clock
from crm.access.actors import SYSTEM
from crm.bills.bundles import bundle_bills
from crm.bills.links import revoke_link
from crm.bills.models import BillStatus
from crm.bills.operations import archive_bill
from crm.db import db, transaction
from crm.errors import DomainError, NotFound
from crm.ledger.models import Account
from crm.payments.confirmation import (
    DECIDING,
    LIFE,
    TRIES,
    accounts_for,
    awaited_code,
    check_code,
    order_of,
    pay_confirmed,
    proof_of,
    send_code,
)
from crm.payments.models import Payment, PaymentCode, PaymentMethod
from tests.factories import make_account, make_bill, make_client

BY = SYSTEM


@pytest.fixture
def payer(network):
    return make_client(network.lesnoy)


@pytest.fixture
def deposit(payer):
    return make_account(payer, balance=5000)


def sent(order):
    with transaction():
        return send_code(order)[1]


def wrong(digits: str) -> str:
    return f"{(int(digits) + 1) % 10**6:06d}"


def confirmed(bill):
    """An order and the proof a right code gives."""
    order = order_of(bill.token)
    return order, proof_of(order, check_code(order, sent(order)))


def code_of(refused) -> str:
    return refused.value.code


def test_the_code_itself_is_not_kept(payer, deposit):
    digits = sent(order_of(make_bill(payer).token))
    assert len(digits) == 6
    assert digits.isdecimal()
    (kept,) = db.session.scalars(select(PaymentCode.code_hash))
    assert digits not in kept


def test_a_right_code_pays_from_the_chosen_account(payer, deposit):
    bill = make_bill(payer, amount=Decimal(1500))
    order, proof = confirmed(bill)
    with transaction():
        (payment,) = pay_confirmed(order, proof, deposit, by=BY)
    assert (payment.method, payment.amount) == (PaymentMethod.ACCOUNT, Decimal(1500))
    assert bill.status is BillStatus.PAID
    assert deposit.balance == 3500


def test_a_code_is_read_with_spaces(payer, deposit):
    order = order_of(make_bill(payer).token)
    digits = sent(order)
    assert check_code(order, f" {digits[:3]} {digits[3:]} ")


def test_wrong_tries_are_counted_and_spend_the_code(payer, deposit):
    order = order_of(make_bill(payer).token)
    digits = sent(order)
    codes = []
    for _try in range(TRIES + 1):
        with pytest.raises(DomainError) as refused:
            check_code(order, wrong(digits))
        codes.append(code_of(refused))
    assert codes == ["code_wrong"] * (TRIES - 1) + ["code_spent"] * 2
    with pytest.raises(DomainError, match="неверных попыток"):
        check_code(order, digits)


@pytest.mark.parametrize("typed", ["", "abc", "١٢٣٤٥٦", "0" * 5000])
def test_what_is_no_code_is_a_wrong_one(payer, deposit, typed):
    order = order_of(make_bill(payer).token)
    sent(order)
    with pytest.raises(DomainError) as refused:
        check_code(order, typed)
    assert code_of(refused) in {"code_wrong"}


def test_a_code_expires(payer, deposit):
    order = order_of(make_bill(payer).token)
    digits = sent(order)
    with clock.frozen(clock.now() + LIFE):
        assert awaited_code(order) is None
        with pytest.raises(DomainError) as refused:
            check_code(order, digits)
    assert code_of(refused) == "code_expired"


def test_only_the_newest_code_is_right(payer, deposit):
    order = order_of(make_bill(payer).token)
    first, second = sent(order), sent(order)
    if first != second:
        with pytest.raises(DomainError):
            check_code(order, first)
    assert check_code(order, second)


def test_a_code_of_one_bill_is_none_of_another(payer, deposit):
    one, other = make_bill(payer), make_bill(payer)
    digits = sent(order_of(one.token))
    with pytest.raises(DomainError) as refused:
        check_code(order_of(other.token), digits)
    assert code_of(refused) == "code_missing"


def test_a_proof_of_one_bill_pays_no_other(payer, deposit):
    _order, proof = confirmed(make_bill(payer))
    other = make_bill(payer)
    with pytest.raises(DomainError) as refused, transaction():
        pay_confirmed(order_of(other.token), proof, deposit, by=BY)
    assert code_of(refused) == "proof_wrong"
    assert other.status is BillStatus.PENDING


@pytest.mark.parametrize("forged", ["", "abc", "WzEsWzFdLCIxNTAwLjAwIl0.abc"])
def test_without_a_signed_proof_nothing_is_paid(payer, deposit, forged):
    bill = make_bill(payer)
    with pytest.raises(DomainError) as refused, transaction():
        pay_confirmed(order_of(bill.token), forged, deposit, by=BY)
    assert code_of(refused) == "proof_wrong"


def test_a_proof_is_good_for_a_while(payer, deposit):
    order, proof = confirmed(make_bill(payer))
    with clock.frozen(clock.now() + LIFE + DECIDING), pytest.raises(DomainError) as refused, transaction():
        pay_confirmed(order, proof, deposit, by=BY)
    assert code_of(refused) == "proof_expired"


def test_a_code_pays_once_even_a_bill_that_may_be_paid_again(payer, deposit):
    bill = make_bill(payer, is_repeatable=True)
    order, proof = confirmed(bill)
    with transaction():
        pay_confirmed(order, proof, deposit, by=BY)
    with pytest.raises(DomainError) as refused, transaction():
        pay_confirmed(order_of(bill.token), proof, deposit, by=BY)
    assert code_of(refused) == "code_used"
    assert deposit.balance == 3500


def test_of_two_clicks_at_once_one_pays(payer, deposit, in_parallel):
    bill = make_bill(payer, is_repeatable=True)
    _order, proof = confirmed(bill)
    token, account_id = bill.token, deposit.id

    def click(_index):
        with transaction():
            account = db.session.get_one(Account, account_id)
            return len(pay_confirmed(order_of(token), proof, account, by=BY))

    results = in_parallel(click, 2)
    assert sorted(str(one) if isinstance(one, int) else one.code for one in results) == ["1", "code_used"]
    db.session.expire_all()
    assert deposit.balance == 3500
    assert len(db.session.scalars(select(Payment).where(Payment.bill_id == bill.id)).all()) == 1


def test_wrong_tries_at_once_are_all_counted(payer, deposit, in_parallel):
    bill = make_bill(payer)
    digits = sent(order_of(bill.token))
    token = bill.token
    results = in_parallel(lambda _index: check_code(order_of(token), wrong(digits)), 8)
    assert sorted(one.code for one in results) == ["code_spent"] * 4 + ["code_wrong"] * 4
    db.session.expire_all()
    assert db.session.scalars(select(PaymentCode)).one().attempts == TRIES


def test_three_codes_for_a_bill_in_a_quarter_of_an_hour(payer, deposit):
    order = order_of(make_bill(payer).token)
    with clock.frozen(now := clock.now()):
        for _code in range(3):
            sent(order)
        with pytest.raises(DomainError) as refused:
            sent(order)
    assert (code_of(refused), refused.value.status) == ("too_many_codes", 429)
    with clock.frozen(now + timedelta(minutes=15)):
        assert sent(order)


def test_ten_codes_a_day_for_a_payer(network, payer, deposit):
    with clock.frozen(clock.now()):
        for _bill in range(4):
            order = order_of(make_bill(payer).token)
            for _code in range(3 if _bill < 3 else 1):
                sent(order)
        with pytest.raises(DomainError) as refused:
            sent(order_of(make_bill(payer).token))
        assert code_of(refused) == "too_many_codes"
        other = make_client(network.lesnoy)
        make_account(other)
        assert sent(order_of(make_bill(other).token))


def test_codes_asked_for_at_once_are_counted(payer, deposit, in_parallel):
    token = make_bill(payer).token

    def ask(_index):
        with transaction():
            return send_code(order_of(token))[1]

    results = in_parallel(ask, 6)
    assert sum(isinstance(one, str) for one in results) == 3


def test_an_account_with_too_little_is_refused(payer):
    poor = make_account(payer, balance=100)
    order, proof = confirmed(make_bill(payer))
    with pytest.raises(DomainError) as refused, transaction():
        pay_confirmed(order, proof, poor, by=BY)
    assert (code_of(refused), refused.value.field) == ("not_enough", "account")
    with transaction():  # the code is not used up by a refusal
        pay_confirmed(order, proof, make_account(payer, balance=2000), by=BY)


def test_a_bill_archived_meanwhile_is_not_paid(payer, deposit):
    bill = make_bill(payer)
    order, proof = confirmed(bill)
    with transaction():
        archive_bill(bill, by=SYSTEM)
    with pytest.raises(DomainError) as refused, transaction():
        pay_confirmed(order, proof, deposit, by=BY)
    assert code_of(refused) == "archived"
    assert deposit.balance == 5000


def test_a_revoked_link_leads_nowhere_even_with_a_proof(payer, deposit):
    bill = make_bill(payer)
    order, proof = confirmed(bill)
    with transaction():
        revoke_link(bill, by=SYSTEM)
    with pytest.raises(NotFound):
        order_of(bill.token)
    with pytest.raises(NotFound), transaction():
        pay_confirmed(order, proof, deposit, by=BY)
    assert deposit.balance == 5000


def test_a_sum_that_changed_meanwhile_is_not_paid(payer, deposit):
    bill = make_bill(payer)
    order, proof = confirmed(bill)
    with transaction():
        bill.paid_amount = Decimal(500)
    with pytest.raises(DomainError) as refused, transaction():
        pay_confirmed(order, proof, deposit, by=BY)
    assert code_of(refused) == "sum_changed"
    with transaction():
        bill.paid_amount = Decimal(0)


def test_the_bills_of_a_bundle_are_paid_at_once(payer, deposit):
    bills = [make_bill(payer, amount=Decimal(amount)) for amount in (1000, 2000)]
    with transaction():
        bundle = bundle_bills(bills, by=SYSTEM)
    order, proof = confirmed(bundle)
    assert order.total == 3000
    with transaction():
        payments = pay_confirmed(order, proof, deposit, by=BY)
    assert [bill.status for bill in bills] == [BillStatus.PAID] * 2
    assert deposit.balance == 2000
    assert {payment.bundle_id for payment in payments} == {bundle.id}
    assert [payment.order_id for payment in payments] == [None, payments[0].id]


def test_a_bundle_is_paid_as_a_whole_or_not_at_all(payer):
    account = make_account(payer, balance=2500)
    bills = [make_bill(payer, amount=Decimal(amount)) for amount in (1000, 2000)]
    with transaction():
        bundle = bundle_bills(bills, by=SYSTEM)
    order, proof = confirmed(bundle)
    with pytest.raises(DomainError) as refused, transaction():
        pay_confirmed(order, proof, account, by=BY)
    assert code_of(refused) == "not_enough"
    assert [bill.status for bill in bills] == [BillStatus.PENDING] * 2


def test_what_of_a_bundle_is_paid_already_is_left_out(payer, deposit):
    bills = [make_bill(payer, amount=Decimal(amount)) for amount in (1000, 2000)]
    with transaction():
        bundle = bundle_bills(bills, by=SYSTEM)
    first, proof = confirmed(bills[0])
    with transaction():
        pay_confirmed(first, proof, deposit, by=BY)
    assert order_of(bundle.token).bills == (bills[1],)


def test_accounts_within_reach_are_offered_whatever_is_on_them(network, payer, deposit):
    empty = make_account(payer)
    stranger = make_account(make_client(network.lesnoy), balance=5000)
    offered = accounts_for(order_of(make_bill(payer).token))
    assert {deposit, empty} == set(offered)
    assert stranger not in offered


def test_the_account_a_bill_tops_up_does_not_pay_it(payer, deposit):
    bill = make_bill(payer, account=deposit)
    assert deposit not in accounts_for(order_of(bill.token))


@pytest.mark.parametrize(("how", "code"), [("off", "deposits_off"), ("none", "no_account")])
def test_where_it_is_not_offered_no_code_is_sent(network, payer, how, code):
    if how == "off":
        make_account(payer, balance=5000)
        with transaction():
            network.company.takes_deposits = False
    with pytest.raises(DomainError) as refused:
        sent(order_of(make_bill(payer).token))
    assert code_of(refused) == code
    assert not db.session.scalars(select(PaymentCode)).all()


@pytest.mark.parametrize("token", ["", "nothing", "a\x00b"])
def test_a_link_that_is_none_leads_nowhere(network, token):
    with pytest.raises(NotFound):
        order_of(token)
