"""Paying from one's own account on the public page: code, choice, payment."""

from __future__ import annotations

import re
from dataclasses import replace
from decimal import Decimal

import pytest
from sqlalchemy import select

from crm import clock
from crm.access.actors import SYSTEM
from crm.bills.bundles import bundle_bills
from crm.bills.links import revoke_link
from crm.bills.models import BillStatus
from crm.bills.operations import archive_bill
from crm.contacts.models import Channel, MessageKind
from crm.db import db, transaction
from crm.mailings.delivery import deliver_batch
from crm.mailings.models import HIDDEN, Message, MessageStatus
from crm.payments.models import Payment, PaymentCode, PaymentMethod
from crm.public.deposit import masked
from tests.factories import make_account, make_bill, make_client
from tests.public.test_bill_page import text_of


@pytest.fixture
def payer(network):
    return make_client(network.lesnoy, name="Иванова Анна Сергеевна", email="anna.ivanova@school.test")


@pytest.fixture
def deposit(payer):
    return make_account(payer, balance=5000)


@pytest.fixture
def browser(network, web):
    browser = web()
    browser.with_csrf = False
    return browser


def ask(browser, bill) -> str:
    """Press «Send the code»; the code as it was sent."""
    assert browser.post(f"/pay/{bill.token}/deposit").status_code == 303
    message = db.session.scalars(select(Message).order_by(Message.id.desc())).first()
    assert message.kind is MessageKind.SERVICE  # nobody refuses these
    return message.secret


def enter(browser, bill, code):
    return browser.post(f"/pay/{bill.token}/deposit/code", data={"code": code})


def proof_in(answer) -> str:
    return re.search(r'name="proof" value="([^"]+)"', answer.text)[1]


def test_the_whole_way(browser, payer, deposit):
    bill = make_bill(payer)
    page = browser.get(f"/pay/{bill.token}/deposit")
    assert "an•••@s•••.test" in text_of(page)
    choice = enter(browser, bill, ask(browser, bill))
    assert "5 000,00 ₽" in text_of(choice)
    assert "Останется 3 500,00 ₽" in text_of(choice)
    done = browser.post(f"/pay/{bill.token}/deposit/pay", data={"proof": proof_in(choice), "account": str(deposit.id)})
    payment = db.session.scalars(select(Payment).where(Payment.bill_id == bill.id)).one()
    assert done.status_code == 303
    assert done.headers["Location"] == f"/pay/{bill.token}?payment={payment.id}"
    db.session.expire_all()
    assert (payment.method, payment.author_name) == (PaymentMethod.ACCOUNT, "public page")
    assert bill.status is BillStatus.PAID
    assert deposit.balance == 3500


def test_nothing_is_told_before_the_code(browser, payer, deposit):
    bill = make_bill(payer)
    ask(browser, bill)
    text = browser.get(f"/pay/{bill.token}/deposit").text.replace("\xa0", " ")
    for fact in ("5 000", payer.email, "Иванова", payer.phone, deposit.title):
        assert fact not in text, fact


def test_looking_changes_nothing(browser, payer, deposit):
    bill = make_bill(payer)
    for address in ("deposit", "deposit/code", "deposit/pay"):
        browser.get(f"/pay/{bill.token}/{address}")
    assert db.session.scalars(select(PaymentCode)).all() == []
    assert db.session.scalars(select(Message)).all() == []
    assert bill.status is BillStatus.PENDING


@pytest.mark.parametrize("step", ["code", "pay"])
def test_a_step_opened_again_without_its_form_begins_anew(browser, payer, deposit, step):
    bill = make_bill(payer)
    answer = browser.get(f"/pay/{bill.token}/deposit/{step}")
    assert (answer.status_code, answer.headers["Location"]) == (303, f"/pay/{bill.token}/deposit")


def test_no_cookie_is_set(browser, payer, deposit):
    bill = make_bill(payer)
    answers = [browser.get(f"/pay/{bill.token}/deposit"), browser.post(f"/pay/{bill.token}/deposit")]
    assert all("Set-Cookie" not in answer.headers for answer in answers)


def test_the_letter_brings_the_code_and_staff_do_not_read_it(
    browser, payer, deposit, smtp, app, network, web, monkeypatch
):
    monkeypatch.setitem(app.config, "SETTINGS", replace(app.config["SETTINGS"], smtp_url=smtp.url))
    bill = make_bill(payer)
    digits = ask(browser, bill)
    message = db.session.scalars(select(Message)).one()
    assert digits not in message.body
    assert digits not in message.subject
    assert HIDDEN in message.body
    for address in (f"/admin/message/details/?id={message.id}", "/admin/message/"):
        seen = web(network.owner).get(address)
        assert message.recipient in seen.text
        assert digits not in seen.text
    db.session.commit()
    deliver_batch()
    (letter,) = smtp.messages
    assert digits in letter.text
    db.session.expire_all()
    assert (message.status, message.secret) == (MessageStatus.SENT, None)


def test_without_an_email_the_code_goes_to_the_mobile_phone(browser, network):
    payer = make_client(network.lesnoy, email="", phone="+79181590830")
    make_account(payer, balance=5000)
    bill = make_bill(payer)
    page = browser.get(f"/pay/{bill.token}/deposit")
    assert "+7 ••• •••-••-30" in text_of(page)
    digits = ask(browser, bill)
    message = db.session.scalars(select(Message)).one()
    assert (message.channel, message.recipient) == (Channel.SMS, "+79181590830")
    assert digits not in message.body


def test_without_an_address_it_says_so(browser, network):
    payer = make_client(network.lesnoy, email="", phone="")
    make_account(payer, balance=5000)
    answer = browser.get(f"/pay/{make_bill(payer).token}/deposit")
    assert answer.status_code == 422
    assert "Мы не знаем ни вашей электронной почты" in text_of(answer)


def test_a_wrong_code_stands_beside_the_field(browser, payer, deposit):
    bill = make_bill(payer)
    digits = ask(browser, bill)
    answer = enter(browser, bill, f"{(int(digits) + 1) % 10**6:06d}")
    assert answer.status_code == 422
    assert "Код неверный. Осталось 4 попытки." in text_of(answer)
    assert 'aria-invalid="true"' in answer.text
    assert "5 000" not in text_of(answer)


def test_too_many_codes_are_refused_in_words(browser, payer, deposit):
    bill = make_bill(payer)
    for _code in range(3):
        ask(browser, bill)
    answer = browser.post(f"/pay/{bill.token}/deposit")
    assert answer.status_code == 429
    assert "Слишком много запросов кода" in text_of(answer)


def test_pressed_twice_it_is_paid_once(browser, payer, deposit):
    bill = make_bill(payer, is_repeatable=True)
    form = {"proof": proof_in(enter(browser, bill, ask(browser, bill))), "account": str(deposit.id)}
    answers = [browser.post(f"/pay/{bill.token}/deposit/pay", data=form) for _click in range(2)]
    assert [answer.status_code for answer in answers] == [303, 303]
    db.session.expire_all()
    assert deposit.balance == 3500


def test_where_nothing_has_enough_it_says_so_and_offers_no_button(browser, payer):
    make_account(payer, balance=100)
    bill = make_bill(payer)
    answer = enter(browser, bill, ask(browser, bill))
    assert "не хватает денег" in text_of(answer)
    assert 'name="proof"' not in answer.text


def test_money_gone_meanwhile_is_said_beside_the_accounts(browser, payer, deposit):
    bill, other = make_bill(payer), make_bill(payer, amount=Decimal(4000))
    proof = proof_in(enter(browser, bill, ask(browser, bill)))
    spent = {"proof": proof_in(enter(browser, other, ask(browser, other))), "account": str(deposit.id)}
    assert browser.post(f"/pay/{other.token}/deposit/pay", data=spent).status_code == 303
    answer = browser.post(f"/pay/{bill.token}/deposit/pay", data={"proof": proof, "account": str(deposit.id)})
    assert answer.status_code == 422
    db.session.expire_all()
    assert deposit.balance == 1000


@pytest.mark.parametrize("account", ["", "0", "abc", "stranger"])
def test_only_ones_own_account_is_taken(browser, network, payer, deposit, account):
    if account == "stranger":
        account = str(make_account(make_client(network.lesnoy), balance=5000).id)
    bill = make_bill(payer)
    proof = proof_in(enter(browser, bill, ask(browser, bill)))
    answer = browser.post(f"/pay/{bill.token}/deposit/pay", data={"proof": proof, "account": account})
    assert answer.status_code == 422
    assert "с которого оплатить" in text_of(answer)
    assert not db.session.scalars(select(Payment).where(Payment.bill_id == bill.id)).all()


def test_without_a_proof_no_balance_is_shown_and_nothing_is_paid(browser, payer, deposit):
    bill = make_bill(payer)
    for data in ({"account": ""}, {"account": str(deposit.id)}, {"account": "0", "proof": "abc"}):
        answer = browser.post(f"/pay/{bill.token}/deposit/pay", data=data)
        assert answer.status_code == 422
        assert "5 000" not in text_of(answer)
    db.session.expire_all()
    assert deposit.balance == 5000


def test_an_archived_bill_says_so(browser, payer, deposit):
    bill = make_bill(payer)
    proof = proof_in(enter(browser, bill, ask(browser, bill)))
    with transaction():
        archive_bill(bill, by=SYSTEM)
    answer = browser.post(f"/pay/{bill.token}/deposit/pay", data={"proof": proof, "account": str(deposit.id)})
    assert answer.status_code == 422
    assert "больше не действует" in text_of(answer)
    assert "больше не действует" in text_of(browser.get(f"/pay/{bill.token}/deposit"))


def test_a_revoked_link_leads_nowhere(browser, payer, deposit):
    bill = make_bill(payer)
    with transaction():
        revoke_link(bill, by=SYSTEM)
    for answer in (
        browser.get(f"/pay/{bill.token}/deposit"),
        browser.post(f"/pay/{bill.token}/deposit"),
        enter(browser, bill, "000000"),
        browser.post(f"/pay/{bill.token}/deposit/pay", data={"proof": "x"}),
    ):
        assert answer.status_code == 404


def test_a_company_that_does_not_take_deposits_says_so(browser, network, payer, deposit):
    with transaction():
        network.company.takes_deposits = False
    answer = browser.get(f"/pay/{make_bill(payer).token}/deposit")
    assert answer.status_code == 422
    assert "не оплачивают со счёта" in text_of(answer)


def test_a_code_runs_out(browser, payer, deposit):
    bill = make_bill(payer)
    digits = ask(browser, bill)
    with transaction():
        db.session.scalars(select(PaymentCode)).one().expires_at = clock.now()
    answer = enter(browser, bill, digits)
    assert "Срок действия кода истёк" in text_of(answer)


def test_the_bills_of_a_bundle_are_paid_at_once(browser, payer, deposit):
    bills = [make_bill(payer, amount=Decimal(amount)) for amount in (1000, 2000)]
    with transaction():
        bundle = bundle_bills(bills, by=SYSTEM)
    choice = enter(browser, bundle, ask(browser, bundle))
    assert "Оплатить 3 000,00 ₽" in text_of(choice)
    form = {"proof": proof_in(choice), "account": str(deposit.id)}
    assert browser.post(f"/pay/{bundle.token}/deposit/pay", data=form).status_code == 303
    db.session.expire_all()
    assert [bill.status for bill in bills] == [BillStatus.PAID] * 2
    assert deposit.balance == 2000


def test_it_speaks_english(network, web, payer, deposit):
    browser = web(language="en")
    assert "Payment from your account" in text_of(browser.get(f"/pay/{make_bill(payer).token}/deposit"))


LINK = "Оплатить с вашего лицевого счёта"


def test_the_bill_leads_there_whatever_is_on_the_account(browser, payer):
    bill = make_bill(payer)
    page = f"/pay/{bill.token}"
    assert LINK not in browser.get(page).text
    make_account(payer)
    assert LINK in browser.get(page).text
    assert f'href="{bill.token}/deposit"' in browser.get(page).text


@pytest.mark.parametrize("why", ["off", "archived", "own", "city"])
def test_the_bill_does_not_lead_there_in_vain(browser, network, payer, why):
    deposit = make_account(payer)
    bill = make_bill(payer, account=deposit if why == "own" else None)
    with transaction():
        if why == "off":
            network.company.takes_deposits = False
        elif why == "archived":
            archive_bill(bill, by=SYSTEM)
        elif why == "city":
            deposit.branch_id = network.mira.id
    assert LINK not in browser.get(f"/pay/{bill.token}").text


def test_a_bundle_leads_there(browser, payer, deposit):
    bills = [make_bill(payer), make_bill(payer)]
    with transaction():
        bundle = bundle_bills(bills, by=SYSTEM)
    assert f'href="{bundle.token}/deposit"' in browser.get(f"/pay/{bundle.token}").text


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("anna@mail.test", "an•••@m•••.test"),
        ("ab@x.test", "a•••@x•••.test"),
        ("+79181590830", "+7 ••• •••-••-30"),
    ],
)
def test_an_address_is_shown_masked(address, shown):
    assert masked(address) == shown
