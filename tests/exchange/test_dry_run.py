"""A dry run counts every line of a messy file for what it is, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from crm.errors import Forbidden
from crm.exchange.importing import Report
from tests.exchange.messy import make_messy_clients
from tests.exchange.sheets import make_csv, make_xlsx
from tests.factories import Network, make_client

HEADER = ("ФИО", "Телефон", "Филиал", "Баланс")


def branch_names(network: Network) -> list[str]:
    return [network.lesnoy.name, network.rechnoy.name, network.mira.name]


def test_figures_equal_those_counted_while_the_file_was_made(
    network: Network, try_import: Callable[..., Report]
) -> None:
    messy = make_messy_clients(branch_names(network))
    report = try_import("client", messy.content)
    assert report.figures == messy.expected
    assert int(messy.expected["good"]) > 100


def test_each_refused_line_is_named_with_column_and_reason(network: Network, try_import: Callable[..., Report]) -> None:
    messy = make_messy_clients(branch_names(network), rounds=1)
    report = try_import("client", messy.content)
    assert {refusal.line: refusal.code for refusal in report.refusals} == messy.refused
    assert all(refusal.reason for refusal in report.refusals)
    columns = {refusal.code: refusal.column for refusal in report.refusals}
    assert columns["bad_email"] == "e-mail"  # as this file spells it
    assert columns["bad_date"] == "Дата рождения ребёнка"
    assert columns["unknown_branch"] == "Филиал"


def test_nothing_is_written(
    network: Network, try_import: Callable[..., Report], row_counts: Callable[[], dict[str, int]]
) -> None:
    before = row_counts()
    try_import("client", make_messy_clients(branch_names(network), rounds=1).content)
    assert row_counts() == before


def test_a_line_with_two_faults_is_told_of_both_and_counted_once(
    network: Network, try_import: Callable[..., Report]
) -> None:
    report = try_import("client", make_xlsx([HEADER, ("Анна", "нет", "Нигде", "долг")]))
    assert [refusal.code for refusal in report.refusals] == ["bad_phone", "unknown_branch", "bad_balance"]
    assert (report.figures["rows"], report.figures["good"], report.figures["bad_phone"]) == (1, 0, 1)
    assert (report.figures["unknown_branch"], report.figures["bad_balance"]) == (0, 0)


def test_of_lines_with_one_phone_the_later_are_refused(network: Network, try_import: Callable[..., Report]) -> None:
    lines = [
        ("Анна", "8 918 159-08-30", "Лесной", 1),
        ("Борис", "+79181590830", "Мира", 2),
        ("Вера", 79181590830, "Мира", 3),
    ]
    report = try_import("client", make_xlsx([HEADER, *lines]))
    assert [(refusal.line, refusal.code) for refusal in report.refusals] == [
        (3, "duplicate_phone"),
        (4, "duplicate_phone"),
    ]
    assert "2" in report.refusals[0].reason  # where the first one stands
    assert report.figures["balance_good"] == "1.00"


def test_a_refused_line_does_not_take_its_phone_from_a_later_good_one(
    network: Network, try_import: Callable[..., Report]
) -> None:
    lines = [("Анна", "+79181590830", "Нигде", 1), ("Борис", "+79181590830", "Мира", 2)]
    assert try_import("client", make_xlsx([HEADER, *lines])).figures["good"] == 1


def test_the_phone_of_a_payer_who_is_here_is_refused(network: Network, try_import: Callable[..., Report]) -> None:
    make_client(network.rechnoy, name="Вера Здешняя", phone="+79181590830")
    report = try_import("client", make_xlsx([HEADER, ("Анна", "8 (918) 159-08-30", "Лесной", 1)]))
    assert report.refusals[0].code == "duplicate_phone"
    assert "Вера Здешняя" in report.refusals[0].reason


def test_columns_may_stand_in_any_order_and_language(network: Network, try_import: Callable[..., Report]) -> None:
    content = make_csv(
        [("Balance", "PHONE", "Branch", "Name", "Shoe size"), ("1,234.50", "+79181590830", "Мира", "Ann", "38")]
    )
    report = try_import("client", content)
    assert report.figures["balance_good"] == "1234.50"
    assert report.ignored == ["Shoe size"]


def test_deposits_of_clients_who_are_not_here_are_counted_and_refused(
    network: Network, try_import: Callable[..., Report]
) -> None:
    make_client(network.lesnoy, phone="+79180000001")
    header = ("Клиент", "Телефон", "Тип счёта", "Баланс", "Открыт")
    report = try_import(
        "account",
        make_csv(
            [
                header,
                ("А", "+79180000001", "депозиты", "2240,71", "05.07.2025"),
                ("А", "+79180000001", "Депозиты", "2240,71", "2025-07-05"),
                ("Б", "+79180000002", "Депозиты", "100,00", "05.07.2025"),
                ("А", "+79180000001", "Бонусы", "1,00", "05.07.2025"),
                ("А", "+79180000001", "Депозиты", "-1,00", "05.07.2025"),
                ("А", "+79180000001", "Депозиты", "1,00", "05.07.2099"),
            ]
        ),
    )
    assert [(refusal.line, refusal.code) for refusal in report.refusals] == [
        (3, "duplicate_line"),
        (4, "unknown_client"),
        (5, "unknown_account_type"),
        (6, "bad_balance"),
        (7, "bad_date"),
    ]
    # What the file holds, sound in itself; and what of it can be opened.
    assert (report.figures["accounts"], report.figures["accounts_total"]) == (4, "4582.42")
    assert (report.figures["good"], report.figures["balance_good"]) == (1, "2240.71")


def test_who_may_not_import_is_refused(network: Network, try_import: Callable[..., Report]) -> None:
    content = make_xlsx([HEADER, ("Анна", "+79181590830", "Лесной", 1)])
    with pytest.raises(Forbidden):
        try_import("client", content, by=network.administrator)
    with pytest.raises(Forbidden):
        try_import("account", content, by=network.manager)
