"""receipt_of(): the slip of an operation, as the client gets it."""

from __future__ import annotations

from decimal import Decimal
from io import BytesIO
from typing import Any
from urllib.parse import unquote

import pypdf
import pytest
from sqlalchemy import select

from crm import clock
from crm.access.actors import SYSTEM
from crm.access.models import FieldRule, Role, RoleSettings
from crm.access.roles import change_role
from crm.db import db, transaction
from crm.ledger.models import AccountKind, Transaction, TransactionKind
from crm.ledger.operations import Cause, Line, house_account, post, reverse
from crm.payments.models import PaymentMethod
from tests.factories import make_account, make_bill, make_client, make_payment, make_subscription


def last() -> Transaction:
    return db.session.scalars(select(Transaction).order_by(Transaction.id.desc()).limit(1)).one()


def read(answer: Any) -> str:
    """The text of the slip on one line, spaces as people see them."""
    assert (answer.status_code, answer.mimetype) == (200, "application/pdf")
    (page,) = pypdf.PdfReader(BytesIO(answer.data)).pages
    return " ".join(page.extract_text().replace("\u200b", "").split())


def slip(client: Any, posted: Transaction | None = None) -> str:
    return read(client.get(f"/admin/entry/receipt/{(posted or last()).id}/"))


@pytest.fixture
def account(network: Any) -> Any:
    return make_account(make_client(network.lesnoy, name="Берёзкина Анна"))


def test_a_top_up(network: Any, web: Any, account: Any) -> None:
    network.lesnoy.address = "Лесная ул., 1"
    payment = make_payment(
        account, Decimal("1234.56"), by=network.administrator, employee=network.employee, comment="За ноябрь"
    )
    there = clock.local(payment.received_at, network.lesnoy)
    answer = web(network.administrator).get(f"/admin/entry/receipt/{last().id}/")
    text = read(answer)
    for part in (
        "ООО «Лесная школа» ИНН 7700000009 Москва, Лесной, Лесная ул., 1",
        f"Квитанция № {last().id}",
        f"Дата {there:%d.%m.%Y %H:%M}",
        "Операция Пополнение",
        "Способ оплаты Наличными",
        "Сотрудник Вера Тренер",
        f"Автор операции {network.administrator.name}",
        "Депозиты Плательщик Берёзкина Анна Зачислено 1 234,56 ₽ Баланс до 0,00 ₽ Баланс после 1 234,56 ₽",
        "Комментарий: За ноябрь",
        "Кассир Клиент Не является кассовым чеком.",
    ):
        assert part in text
    header = answer.headers["Content-Disposition"]
    assert header.startswith("inline; ")
    assert unquote(header).endswith(f"Квитанция № {last().id}.pdf")


def test_in_english(network: Any, web: Any, account: Any) -> None:
    make_payment(account, Decimal("1234.56"), method=PaymentMethod.CARD)
    text = slip(web(network.administrator, language="en"))
    assert f"Receipt No. {last().id}" in text
    assert "Way of payment By card" in text
    assert "Credited RUB 1,234.56 Balance before RUB 0.00 Balance after RUB 1,234.56" in text


def test_the_time_is_the_branchs(network: Any, web: Any) -> None:
    account = make_account(make_client(network.mira))
    payment = make_payment(account)
    there = clock.local(payment.received_at, network.mira)
    assert f"Дата {there:%d.%m.%Y %H:%M}" in slip(web(network.owner))


def test_what_was_sold(network: Any, web: Any, account: Any) -> None:
    sold = make_subscription(account.client)
    text = slip(web(network.administrator))
    assert f"За что 8 занятий #{sold.id}" in text
    assert "Списано 4 000,00 ₽ Баланс до 0,00 ₽ Баланс после -4 000,00 ₽" in text


def test_the_bill_it_paid(network: Any, web: Any, account: Any) -> None:
    bill = make_bill(account.client, amount=Decimal(300), account=account)
    make_payment(account, 300, bill=bill)
    assert f"За что {bill.title}" in slip(web(network.administrator))


def test_a_refund_says_out_of_which_till(network: Any, web: Any, account: Any) -> None:
    make_payment(account, 500)
    cash = house_account(AccountKind.CASH, network.lesnoy.id)
    with transaction():
        lines = [Line(account, Decimal("-200.50")), Line(cash, Decimal("200.50"))]
        post(TransactionKind.REFUND, lines, branch_id=network.lesnoy.id, by=SYSTEM, cause=Cause(account.client_id))
    text = slip(web(network.administrator))
    assert "Операция Возврат клиенту Способ оплаты Касса" in text
    assert "Списано 200,50 ₽ Баланс до 500,00 ₽ Баланс после 299,50 ₽" in text


def test_a_transfer_names_both_accounts(network: Any, web: Any, account: Any) -> None:
    make_payment(account, 500)
    other = make_account(make_client(network.lesnoy, name="Дубов Пётр"))
    with transaction():
        lines = [Line(account, Decimal(-500)), Line(other, Decimal(500))]
        post(TransactionKind.TRANSFER, lines, branch_id=network.lesnoy.id, by=SYSTEM)
    text = slip(web(network.administrator))
    assert "Плательщик Берёзкина Анна Списано 500,00 ₽ Баланс до 500,00 ₽ Баланс после 0,00 ₽" in text
    assert "Плательщик Дубов Пётр Зачислено 500,00 ₽ Баланс до 0,00 ₽ Баланс после 500,00 ₽" in text


def test_a_reversed_operation_and_its_reversal_say_so(network: Any, web: Any, account: Any) -> None:
    make_payment(account, 500)
    posted = last()
    browser = web(network.administrator)
    with transaction():
        undone = reverse(posted, by=SYSTEM, comment="Ошиблись суммой")
    assert f"Отменена операцией № {undone.id}" in slip(browser, posted)
    assert f"Отменяет операцию № {posted.id}" in slip(browser, undone)


def test_long_names_are_all_there(network: Any, web: Any) -> None:
    name = "Константинопольская-Преображенская Александра Вениаминовна" * 2
    make_account(make_client(network.lesnoy, name=name), balance=Decimal("99999999.99"))
    text = slip(web(network.administrator))
    assert name.replace(" ", "") in text.replace(" ", "")
    assert "Зачислено 99 999 999,99 ₽" in text


@pytest.mark.parametrize(
    ("field", "gone", "kept"),
    [
        ("account.balance", ["Баланс до", "Баланс после"], ["Зачислено 500,00 ₽"]),
        ("entry.balance_after", ["Баланс до", "Баланс после"], ["Зачислено 500,00 ₽"]),
        ("entry.amount", ["500,00", "Баланс"], ["Плательщик"]),
    ],
)
def test_what_a_role_does_not_see_is_not_printed(
    network: Any, web: Any, account: Any, field: str, gone: list[str], kept: list[str]
) -> None:
    make_payment(account, 500)
    settings = db.session.scalars(select(RoleSettings).where(RoleSettings.role == Role.ADMINISTRATOR)).one()
    with transaction():
        change_role(settings, permissions={}, fields={field: FieldRule.HIDE}, by=SYSTEM)
    text = slip(web(network.administrator))
    assert not [part for part in gone if part in text]
    assert [part for part in kept if part in text] == kept


@pytest.mark.parametrize("number", ["0", "-1", "x", "999999", "9" * 30])
def test_there_is_no_slip_of_what_is_not_there(network: Any, web: Any, number: str) -> None:
    assert web(network.administrator).get(f"/admin/entry/receipt/{number}/").status_code == 404


def test_nor_of_a_foreign_branch(network: Any, web: Any) -> None:
    make_account(make_client(network.mira), balance=5)
    assert web(network.administrator).get(f"/admin/entry/receipt/{last().id}/").status_code == 404
    assert web(network.owner).get(f"/admin/entry/receipt/{last().id}/").status_code == 200
