"""The page of a bill as its payer sees it, state by state."""

from __future__ import annotations

import re
from base64 import b64encode
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from hashlib import sha256
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import event, func, select

from crm import clock
from crm.access.actors import SYSTEM
from crm.access.requisites import set_requisites
from crm.bills.models import BillLine, BillLineKind
from crm.bills.operations import archive_bill
from crm.clients.names import discreet_name, first_name
from crm.db import db, transaction
from crm.i18n import moment
from crm.ledger.operations import base_account
from crm.payments.models import Payment
from crm.payments.operations import accept_notice
from crm.payments.refunds import refund_payment, refunds_of
from tests.bank import begin, pay_at
from tests.bills.test_archive import settle_at_desk
from tests.bills.test_payable import EXPIRED
from tests.factories import make_account, make_bill, make_client

BUTTON = "Перейти к оплате"


def text_of(answer) -> str:
    """The page without its tags, spaces as one reads them."""
    text = re.sub(r"<style>.*?</style>|<[^>]+>", " ", answer.text, flags=re.DOTALL)
    return " ".join(text.replace("\xa0", " ").replace("&nbsp;", " ").split())


def has_button(answer) -> bool:
    return re.search(rf"<button[^>]*>{BUTTON}</button>", answer.text) is not None


def assert_refused(browser, bill) -> None:
    """No button, and a POST all the same begins nothing."""
    path = f"/pay/{bill.token}"
    before = db.session.scalar(select(func.count()).select_from(Payment))
    assert not has_button(browser.get(path))
    answer = browser.post(path)
    assert 400 <= answer.status_code < 500
    assert not has_button(answer)
    assert db.session.scalar(select(func.count()).select_from(Payment)) == before


@pytest.mark.spec("B40", "B43")
def test_requisites_sum_period_term_and_the_button(network, bank, web):
    client = make_client(network.lesnoy, name="Кузнецова Анна Сергеевна")
    bill = make_bill(
        client,
        account=make_account(client),
        amount=Decimal("14300.50"),
        period_from=date(2027, 2, 1),
        period_to=date(2027, 2, 28),
        payable_from=clock.today(network.lesnoy),
        payable_until=date(2099, 12, 31),
    )
    answer = web().get(f"/pay/{bill.token}")
    assert answer.status_code == 200
    assert has_button(answer)
    shown = text_of(answer)
    company = network.company
    for requisite in (
        *(company.legal_name, company.inn, company.kpp, company.ogrn, company.bank_name, company.bic, company.address),
        *(company.settlement_account, company.correspondent_account, "+7 495 000-00-01", company.email),
    ):
        assert requisite in shown
    for fact in (
        *(f"Счёт № {bill.title}", "14 300,50 ₽", "01.02.2027 – 28.02.2027", "по 31.12.2099"),
        *("Ожидает оплаты", "«Депозиты»", "Анна Сергеевна К."),
    ):
        assert fact in shown
    assert "Кузнецова" not in shown


@pytest.mark.spec("B25")
def test_a_term_without_an_end_is_not_set(network, bank, web):
    bill = make_bill(make_client(network.lesnoy))
    assert re.search(r"<dt>Срок оплаты</dt><dd>не задан</dd>", web().get(f"/pay/{bill.token}").text)


@pytest.mark.spec("B41", "B42")
def test_the_default_offer_until_the_company_gives_its_own(network, bank, web):
    bill = make_bill(make_client(network.lesnoy))
    browser = web()

    def offer() -> str:
        link = re.search(r'<a href="([^"]+)"[^>]*>публичная оферта</a>', browser.get(f"/pay/{bill.token}").text)
        assert link is not None
        return link[1]

    assert offer() == "/offer"
    assert "Публичная оферта" in browser.get("/offer").text
    with transaction():
        set_requisites(network.company, by=network.owner, offer_url="https://school.example/offer?a=1")
    assert offer() == "https://school.example/offer?a=1"


@pytest.mark.spec("B46")
def test_changed_requisites_are_seen_at_once(network, bank, web):
    bill, browser = make_bill(make_client(network.lesnoy)), web()
    with transaction():
        set_requisites(network.company, by=network.owner, legal_name="ООО «Новая школа»", inn="7707083893")
    shown = text_of(browser.get(f"/pay/{bill.token}"))
    assert "ООО «Новая школа»" in shown
    assert "7707083893" in shown


# --- states ---------------------------------------------------------------------------------------------------------


@pytest.mark.spec("B26", "B27")
@pytest.mark.parametrize(("branch", "zone"), [("lesnoy", "Europe/Moscow"), ("mira", "Europe/Samara")])
def test_the_term_ends_at_midnight_where_the_branch_is(network, bank, web, branch, zone):
    bill = make_bill(
        make_client(getattr(network, branch)), payable_from=date(2027, 1, 1), payable_until=date(2027, 1, 31)
    )
    browser, midnight = web(), datetime(2027, 2, 1, tzinfo=ZoneInfo(zone))
    with clock.frozen(midnight - timedelta(seconds=1)):
        answer = browser.get(f"/pay/{bill.token}")
        assert has_button(answer)
        assert EXPIRED not in text_of(answer)
    with clock.frozen(midnight):
        assert EXPIRED in text_of(browser.get(f"/pay/{bill.token}"))
        assert_refused(browser, bill)
        assert EXPIRED in text_of(browser.post(f"/pay/{bill.token}"))


@pytest.mark.spec("B55")
@pytest.mark.parametrize("is_repeatable", [False, True])
def test_an_archived_bill_is_dead(network, bank, web, is_repeatable):
    bill = make_bill(make_client(network.lesnoy), is_repeatable=is_repeatable)
    with transaction():
        archive_bill(bill, by=SYSTEM)
    browser = web()
    assert "В архиве" in text_of(browser.get(f"/pay/{bill.token}"))
    assert_refused(browser, bill)


@pytest.mark.spec("B29")
def test_a_paid_bill_says_so_and_takes_no_more(network, bank, web):
    bill = settle_at_desk(make_bill(make_client(network.lesnoy)))
    browser = web()
    assert "Счёт оплачен. Спасибо!" in text_of(browser.get(f"/pay/{bill.token}"))
    assert_refused(browser, bill)


@pytest.mark.spec("B28", "B29")
def test_a_repeatable_bill_is_paid_and_can_be_paid_again(network, bank, web):
    bill = settle_at_desk(make_bill(make_client(network.lesnoy), is_repeatable=True))
    browser = web()
    answer = browser.get(f"/pay/{bill.token}")
    assert "Оплачен" in text_of(answer)
    assert has_button(answer)
    assert browser.post(f"/pay/{bill.token}").status_code == 302


def test_a_bill_of_the_future_says_from_when(network, bank, web):
    bill = make_bill(make_client(network.lesnoy), payable_from=date(2099, 3, 1))
    browser = web()
    assert "01.03.2099" in text_of(browser.get(f"/pay/{bill.token}"))
    assert_refused(browser, bill)


@pytest.mark.spec("B4")
def test_without_a_gateway_there_is_an_explanation_instead_of_the_button(network, web):
    bill = make_bill(make_client(network.lesnoy))
    browser = web()
    assert "Онлайн-оплата пока не подключена" in text_of(browser.get(f"/pay/{bill.token}"))
    assert_refused(browser, bill)


def test_an_unknown_token_is_a_friendly_404(network, bank, web):
    bill = make_bill(make_client(network.lesnoy))
    for method in ("get", "post"):
        answer = getattr(web(), method)(f"/pay/{bill.token[:-1]}")
        assert answer.status_code == 404
        assert "Счёт не найден" in text_of(answer)


def test_what_a_bill_is_for_is_unfolded_line_by_line(network, bank, web):
    lines = [
        BillLine(position=1, kind=BillLineKind.LESSON, day=date(2027, 2, 3), student="Маша", title="Хор", amount=900),
        BillLine(
            position=2, kind=BillLineKind.LESSON, day=date(2027, 2, 5), title="Хор", note="по абонементу", amount=0
        ),
        BillLine(position=3, kind=BillLineKind.BALANCE, amount=-400),
    ]
    bill = make_bill(make_client(network.lesnoy), amount=Decimal(500), lines=lines, purpose="Хор в феврале")
    page = web().get(f"/pay/{bill.token}")
    shown = text_of(page)
    assert "Хор в феврале" in shown
    found = re.search(r"<details class=\"lines\">.*</details>", page.text, re.DOTALL)
    assert found is not None
    rows = ("03.02.2027 Хор · Маша 900,00", "Хор по абонементу 0,00", "-400,00", "Итого 500,00")
    for fact in ("За что этот счёт?", *rows):
        assert fact in shown
    assert 'class="lines"' not in web().get(f"/pay/{make_bill(make_client(network.lesnoy)).token}").text


def test_the_bill_as_pdf_and_the_qr_for_a_banks_app(network, bank, web):
    bill, browser = make_bill(make_client(network.lesnoy)), web()
    page = browser.get(f"/pay/{bill.token}").text
    assert f'href="{bill.token}/bill.pdf"' in page
    pdf = browser.get(f"/pay/{bill.token}/bill.pdf")
    assert (pdf.content_type, pdf.data[:5]) == ("application/pdf", b"%PDF-")
    assert f'href="{bill.token}/qr"' in page
    opened = browser.get(f"/pay/{bill.token}/qr")
    assert '<svg role="img"' in opened.text
    assert f'href="../{bill.token}">Вернуться к счёту' in opened.text
    assert 'href="qr.svg" download' in opened.text
    drawn = browser.get(f"/pay/{bill.token}/qr.svg")
    assert drawn.content_type == "image/svg+xml"
    assert drawn.headers["Content-Disposition"] == f'attachment; filename="{bill.title}-qr.svg"'
    assert "http://www.w3.org/2000/svg" in drawn.text
    settled = settle_at_desk(bill)
    assert f'href="{bill.token}/qr' not in browser.get(f"/pay/{settled.token}").text
    assert browser.get(f"/pay/{settled.token}/qr.svg").status_code == 404
    assert browser.get(f"/pay/{settled.token}/qr").headers["Location"].endswith(f"/pay/{settled.token}")


def test_money_given_back_is_said_first_of_all(network, bank, web):
    bill, browser = make_bill(make_client(network.lesnoy)), web()
    payment = begin(bill, bank)
    accept_notice(bank, pay_at(bank, payment))
    for amount, said in (("500.50", "Часть денег возвращена 500,50 ₽"), ("999.50", "Деньги возвращены 1 500,00 ₽")):
        with transaction():
            refund_payment(payment, Decimal(amount), "Болел", by=SYSTEM)
        on = moment(refunds_of(payment)[-1].finished_at, network.lesnoy.time_zone)
        db.session.commit()
        for path in (f"/pay/{bill.token}", f"/pay/{bill.token}?payment={payment.id}"):
            assert f"{said} · {on}" in text_of(browser.get(path))
    assert "Спасибо" not in text_of(browser.get(path))
    assert "Возвращён" in text_of(browser.get(path))
    assert "Оплачен " not in text_of(browser.get(path))


def test_what_nobody_can_pay_asks_for_nothing(network, bank, web):
    bill, browser = make_bill(make_client(network.lesnoy)), web()
    asks = ("Сумма к оплате", "принимаете условия")
    assert all(text in text_of(browser.get(f"/pay/{bill.token}")) for text in asks)
    settle_at_desk(bill)
    assert not any(text in text_of(browser.get(f"/pay/{bill.token}")) for text in asks)


def test_a_bill_without_a_purpose_is_for_lessons_or_for_the_account(network, bank, web):
    client = make_client(network.lesnoy)
    base = make_bill(client, account=base_account(client.id, network.lesnoy.id))
    deposit = make_bill(client, account=make_account(client))
    assert "Назначение Оплата занятий" in text_of(web().get(f"/pay/{base.token}"))
    assert "Пополнение счёта «Депозиты»" in text_of(web().get(f"/pay/{deposit.token}"))


def test_opening_the_page_takes_nothing_but_one_statement_of_the_driver(network, bank, web):
    path, browser = f"/pay/{make_bill(make_client(network.lesnoy)).token}", web()
    browser.get(path)
    said: list[str] = []

    def note(*asked) -> None:
        said.append(asked[2] if len(asked) > 2 else "BEGIN")

    event.listen(db.engine, "before_cursor_execute", note)
    event.listen(db.engine, "begin", note)
    try:
        assert browser.get(path).status_code == 200
    finally:
        event.remove(db.engine, "before_cursor_execute", note)
        event.remove(db.engine, "begin", note)
    assert said == []


# --- the page itself ------------------------------------------------------------------------------------------------


def test_the_token_does_not_leak_and_the_page_is_kept_by_nobody(network, bank, web):
    bill = make_bill(make_client(network.lesnoy))
    headers = web().get(f"/pay/{bill.token}").headers
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cache-Control"] == "no-store"
    assert "noindex" in headers["X-Robots-Tag"]
    assert "Set-Cookie" not in headers
    policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
    assert (policy["default-src"], policy["script-src"]) == ("'none'", "'self'")
    assert re.fullmatch(r"'self' 'sha256-[\w+/]{43}='", policy["style-src"])


def test_the_one_style_is_the_one_the_policy_names_and_one_heading(network, bank, web):
    bill = make_bill(make_client(network.lesnoy))
    for path in (f"/pay/{bill.token}", "/offer", "/pay/unknown", f"/demo-bank/{begin(bill, bank).external_id}"):
        answer = web().get(path)
        (style,) = re.findall(r"<style>(.*?)</style>", answer.text, re.DOTALL)
        digest = b64encode(sha256(style.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in answer.headers["Content-Security-Policy"]
        assert not re.search(r"<script(?! type=\"module\" src=)|\sstyle=|\son\w+=", answer.text)
        assert answer.text.count("<h1") == 1


def test_the_page_is_one_request_below_30_kilobytes(network, bank, web):
    """Many lines, a purpose as long as a purpose may be, all requisites; neither script nor style sheet nor picture."""
    title = "Индивидуальные занятия английским языком, продолжающие"
    lines = [
        BillLine(
            position=at, kind=BillLineKind.LESSON, day=date(2027, 2, 1), student="Александра", title=title, amount=100
        )
        for at in range(200)
    ]
    bill = make_bill(make_client(network.lesnoy), amount=Decimal(20000), lines=lines, purpose="Ы" * 160)
    page = web().get(f"/pay/{bill.token}")
    assert len(page.data) < 30_000
    assert not re.search(r"<script|<link rel=\"stylesheet|<img|<iframe|@import|url\(", page.text)


def test_robots_are_kept_out(network, bank, web):
    bill = make_bill(make_client(network.lesnoy))
    assert "Disallow: /\n" in web().get("/robots.txt").text
    for path in (f"/pay/{bill.token}", f"/pay/{bill.token}/bill.pdf", "/pay/unknown", "/offer"):
        assert web().get(path).headers["X-Robots-Tag"] == "noindex, nofollow"
    assert '<meta name="robots" content="noindex, nofollow">' in web().get(f"/pay/{bill.token}").text


def test_in_english_for_who_reads_english(network, bank, web):
    bill = make_bill(make_client(network.lesnoy), amount=Decimal("14300.50"))
    answer = web(language="en").get(f"/pay/{bill.token}")
    assert "Proceed to payment" in answer.text
    assert "RUB\xa014,300.50" in answer.text
    assert not re.search(
        "[а-яё]", re.sub(r"<dd.*?</dd>|«.*?»|<p class=\"(company|branch)\">.*?</p>|·.*", "", answer.text)
    )


def test_names_cannot_break_out_into_the_page(network, bank, web):
    with transaction():
        network.company.legal_name = "<script>alert(1)</script>"
    bill = make_bill(make_client(network.lesnoy, name="<b>Иван</b> <i>П</i>"))
    page = web().get(f"/pay/{bill.token}").text
    assert "<script>" not in page
    assert "<b>" not in page


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Кузнецова Анна Сергеевна", "Анна Сергеевна К."),
        ("Анна Сергеевна Кузнецова", "Анна Сергеевна К."),
        ("Анна Кузнецова", "Анна К."),
        ("Анна", "Анна"),
        ("Ким Ильич Ким-Оглы Старший", "Ким Ильич К. С."),
    ],
)
def test_a_name_enough_for_its_owner(name, shown):
    assert discreet_name(name) == shown


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("Иванова Анна Сергеевна", "Анна"),
        ("Анна Сергеевна Иванова", "Анна"),
        ("Берёзкин Виктор", "Виктор"),
        ("Виктор Берёзкин", "Виктор"),
        ("Фёдоров Фёдор", "Фёдор"),
        ("Ким Джиён", "Джиён"),
        ("Соня", "Соня"),
    ],
)
def test_a_student_is_called_by_the_first_name(name, first):
    assert first_name(name) == first


def test_staff_of_another_branch_see_the_public_page_like_anybody(network, bank, web):
    """The link is open to whoever holds it; being signed in elsewhere must not hide it."""
    bill = make_bill(make_client(network.mira))
    browser = web(network.administrator, network.lesnoy)
    assert has_button(browser.get(f"/pay/{bill.token}"))
    assert browser.post(f"/pay/{bill.token}").status_code == 302


def test_the_day_of_now_is_not_the_days_of_utc(network, bank, web):
    """Half past midnight in Samara on the last day: UTC and Moscow are still on the day before."""
    bill = make_bill(make_client(network.mira), payable_from=date(2027, 1, 31), payable_until=date(2027, 1, 31))
    with clock.frozen(datetime(2027, 1, 30, 20, 30, tzinfo=UTC)):
        assert has_button(web().get(f"/pay/{bill.token}"))
