"""Filters as people meet them: the builder without scripts, chips in words, quick chips, counts."""

from __future__ import annotations

import html
import re
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from crm.access.actors import SYSTEM
from crm.admin import selection as selection_module
from crm.clients.operations import archive_client
from tests.factories import make_bill, make_client

BUILDER = "/admin/bill/filters/"


def builder(client: Any, path: str = BUILDER, **args: Any) -> str:
    answer = client.get(path, query_string=args)
    assert answer.status_code == 200
    return str(answer.text)


def applied(client: Any, **args: Any) -> list[tuple[str, str]]:
    """The grid's arguments a sent builder leads to."""
    answer = client.get(BUILDER, query_string={"rows": "9", "do": "apply", **args})
    assert answer.status_code == 302
    assert urlsplit(answer.headers["Location"]).path == "/admin/bill/"
    return parse_qsl(urlsplit(answer.headers["Location"]).query, keep_blank_values=True)


def rows(page: str) -> list[tuple[str, str]]:
    """(column, operator chosen) of the builder's rows."""
    return re.findall(r'name="c\d+" value="([^"]+)">.*?<option value="([^"]+)" selected', page, re.DOTALL)


def chips(page: str) -> dict[str, str]:
    """Texts of the filters in force, and where their removal leads."""
    found = re.findall(r'<a class="chip(?: chip-bad)?" href="([^"]+)"[^>]*>(.*?)</a>', page, re.DOTALL)
    return {
        html.unescape(re.sub(r"<[^>]+>.*", "", inside, flags=re.DOTALL)).replace("\xa0", " ").strip(): html.unescape(
            url
        )
        for url, inside in found
    }


def titles(page: str) -> list[str]:
    return re.findall(r"data-open>([^<]+)</a>", page)


def test_an_empty_builder_offers_the_columns(network: Any, web: Any) -> None:
    page = builder(web(network.administrator))
    offered = re.findall(r'<option value="(\w+)">', page.partition('id="builder-new"')[2])
    assert {"client", "amount", "status", "issued_at", "payable_until"} <= set(offered)


@pytest.mark.parametrize(
    ("column", "operators", "control"),
    [
        ("amount", ["range", "is", "empty"], 'type="text" name="v0"'),
        ("issued_at", ["range", "period", "empty"], 'type="date" name="v0"'),
        ("payable_until", ["range", "period", "empty"], 'type="date" name="v0"'),
        ("status", ["is", "not"], 'type="checkbox" name="v0" value="pending"'),
        ("email", ["has", "is", "not", "empty"], 'type="text" name="v0"'),
    ],
)
def test_a_row_has_the_conditions_and_the_control_of_its_kind(
    network: Any, web: Any, column: str, operators: list[str], control: str
) -> None:
    path = "/admin/client/filters/" if column == "email" else BUILDER
    page = builder(web(network.administrator), path, rows="0", c0=column, do="renew")
    own = page.partition('name="o0"')[2].partition("</select>")[0]
    offered = re.findall(r'<option value="(\w+)"', own)
    assert set(operators) <= set(offered)
    assert offered[0] == operators[0]
    assert control in page


def test_another_condition_brings_another_control(network: Any, web: Any) -> None:
    client = web(network.administrator)
    page = builder(client, rows="1", c0="issued_at", o0="period", do="renew")
    assert '<option value="this_month"' in page
    assert 'type="date" name="v0"' not in page
    page = builder(client, rows="1", c0="amount", o0="empty", do="renew")
    assert re.findall(r'<option value="([01])"', page) == ["1", "0"]


def test_a_row_more_and_a_row_less_and_what_was_typed_stays(network: Any, web: Any) -> None:
    client = web(network.administrator)
    args = {"c0": "amount", "o0": "range", "v0": ["1000", "2000"], "rows": "1"}
    page = builder(client, **args, c1="status", do="renew")
    assert rows(page) == [("amount", "range"), ("status", "is")]
    assert 'value="1000"' in page
    assert 'value="2000"' in page
    page = builder(client, **args, c1="status", o1="is", v1="paid", do="remove:0")
    assert rows(page) == [("status", "is")]
    assert re.search(r'name="v0" value="paid" checked', page)


def test_what_is_applied_is_the_address_of_the_grid(network: Any, web: Any) -> None:
    client = web(network.administrator)
    args = {"c0": "amount", "o0": "range", "v0": ["1 000", ""], "c1": "status", "o1": "is", "v1": ["paid", "pending"]}
    assert applied(client, **args, q="Анна", sort="-amount", size="25") == [
        ("q", "Анна"),
        ("sort", "-amount"),
        ("size", "25"),
        ("f.amount.from", "1 000"),
        ("f.status.is", "paid"),
        ("f.status.is", "pending"),
    ]
    assert applied(client, c0="amount", o0="range", v0=["", " "]) == [("view", "")]


def test_groups_are_alternatives(network: Any, web: Any) -> None:
    client, anna = web(network.administrator), make_client(network.lesnoy)
    small, large, middle = (make_bill(anna, amount=amount).title for amount in (100, 9000, 1000))
    args = {"c0": "amount", "o0": "to", "g0": "any1", "v0": "500", "c1": "amount", "o1": "from", "g1": "any1"}
    pairs = applied(client, **args, v1="5000")
    assert pairs == [("any1.f.amount.to", "500"), ("any1.f.amount.from", "5000")]
    page = client.get("/admin/bill/", query_string=pairs).text
    assert set(titles(page)) == {small, large}
    assert middle not in page
    assert "любое из" in page
    assert len(chips(page)) == 2
    again = client.get(BUILDER, query_string=pairs).text
    assert len(re.findall(r'<option value="any1" selected', again)) == 2


def test_a_range_of_the_address_is_one_row(network: Any, web: Any) -> None:
    page = builder(web(network.administrator), **{"f.amount.from": "5", "f.amount.to": "9", "f.status.not": "paid"})
    assert rows(page) == [("amount", "range"), ("status", "not")]
    assert re.findall(r'name="v0" value="(\d)"', page) == ["5", "9"]


def test_an_error_stands_beside_its_row_and_nothing_is_lost(network: Any, web: Any) -> None:
    client = web(network.administrator)
    page = builder(client, **{"f.amount.from": "дорого", "f.issued_at.period": "today"})
    first, second = page.split("</fieldset>")[:2]
    assert 'role="alert"' in first
    assert 'value="дорого"' in first
    assert 'role="alert"' not in second
    grid = client.get("/admin/bill/?f.amount.from=дорого").text
    assert "chip-bad" in grid


def test_odd_builders_are_answered(network: Any, web: Any) -> None:
    client = web(network.administrator)
    for args in (
        {"rows": "x", "c0": "no such", "o0": "is"},
        {"rows": "1", "c0": "amount", "o0": "drop", "v0": "\x00", "g0": "any77"},
        {"rows": "999999999999", "do": "remove:-1"},
        {"rows": "", "do": "remove:99", "c0": "status", "o0": "period", "v0": "<b>"},
        {"rows": "1", "c0": "client", "o0": "is", "v0": "9" * 40},
    ):
        assert "<b>" not in builder(client, **args)
        assert client.get(BUILDER, query_string={**args, "do": "apply"}).status_code == 302


def test_filters_are_told_in_words(network: Any, web: Any) -> None:
    client = web(network.administrator)
    address = "/admin/bill/?f.status.is=pending&f.amount.from=1000&f.issued_at.period=this_month"
    found = chips(client.get(address).text)
    assert "Сумма от 1 000,00" in found
    assert any(text.startswith("Статус") and "жидает оплаты" in text for text in found), found
    assert any("этот месяц" in text.lower() or "в этом месяце" in text.lower() for text in found)
    assert len(found) == 3
    assert any("содержит «@x»" in text for text in chips(client.get("/admin/client/?f.email.has=@x").text))


def test_a_chip_takes_its_filter_off_alone(network: Any, web: Any) -> None:
    page = web(network.administrator).get("/admin/bill/?q=Анна&f.status.is=pending&f.amount.from=1000&sort=amount").text
    (url,) = (url for text, url in chips(page).items() if text.startswith("Статус"))
    left = dict(parse_qsl(url.removeprefix("?")))
    assert left == {"q": "Анна", "f.amount.from": "1000", "sort": "amount"}


def test_a_client_is_told_by_name(network: Any, web: Any) -> None:
    anna, foreign = make_client(network.lesnoy, name="Анна Петрова"), make_client(network.mira, name="Чужая Тайна")
    make_bill(anna)
    client = web(network.administrator)
    page = client.get(f"/admin/bill/?f.client.is={anna.id}").text
    assert any(text.endswith("Анна Петрова") for text in chips(page)), chips(page)
    assert len(titles(page)) == 1
    hidden = client.get(f"/admin/bill/?f.client.is={foreign.id}").text
    assert "Чужая Тайна" not in hidden
    assert any(text.endswith(f"#{foreign.id}") for text in chips(hidden))


def test_quick_chips_are_a_click_on_and_a_click_off(network: Any, web: Any) -> None:
    client, anna = web(network.administrator), make_client(network.lesnoy, name="Анна", email="anna@example.org")
    gone = make_client(network.lesnoy, name="Ушедшая", email="")
    archive_client(gone, by=SYSTEM)
    links = {
        label: (html.unescape(url), bool(on))
        for url, on, label in re.findall(
            r'chip-quick" href="([^"]+)"( aria-current="true")?>([^<]+)</a>', client.get("/admin/client/?size=25").text
        )
    }
    url, is_on = links["В архиве"]
    assert not is_on
    assert dict(parse_qsl(url.removeprefix("?"))) == {"size": "25", "f.status.is": "archived"}
    page = client.get(f"/admin/client/{url}").text
    assert titles(page) == ["Ушедшая"]
    (off,) = re.findall(r'chip-quick" href="([^"]+)" aria-current="true">В архиве<', page)
    assert dict(parse_qsl(html.unescape(off).removeprefix("?"))) == {"size": "25"}
    assert anna.name in client.get(f"/admin/client/{html.unescape(off)}").text


def test_the_count_is_exact_or_honest_and_exact_on_demand(
    network: Any, web: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, anna = web(network.administrator), make_client(network.lesnoy)
    for amount in (100, 200, 300, 400):
        make_bill(anna, amount=amount)
    count = re.compile(r"data-count>(.*?)</small>", re.DOTALL)
    assert count.findall(client.get("/admin/bill/").text) == ["4"]
    monkeypatch.setattr(selection_module, "COUNT_LIMIT", 3)
    (shown,) = count.findall(client.get("/admin/bill/?f.amount.from=50").text)
    assert "000+" in shown
    (link,) = re.findall(r'href="([^"]+)" data-ask-count', shown)
    page = client.get(f"/admin/bill/{html.unescape(link)}").text
    assert count.findall(page) == ["4"]
    assert "1 000,00" in page.partition("<tfoot>")[2].replace("\xa0", " ")


def test_rows_are_ordered_by_several_columns_without_script(network: Any, web: Any) -> None:
    client = web(network.administrator)
    page = client.get("/admin/bill/layout/?sort=-amount,title&f.status.is=paid").text
    assert re.findall(r'<option value="([^"]+)" selected>[^<]+[↑↓]</option>', page) == ["-amount", "title"]
    columns = ["title", "amount"]
    form = {"do": "apply", "order": columns, "column": columns, "state": "sort=-amount&f.status.is=paid&page=3"}
    answer = client.post("/admin/bill/layout/", data={**form, "sort": ["status", "", "-amount"]})
    args = dict(parse_qsl(urlsplit(answer.headers["Location"]).query))
    assert args == {"f.status.is": "paid", "sort": "status,-amount"}
    odd = client.post("/admin/bill/layout/", data={**form, "sort": ["no such", "amount", "amount"]})
    assert client.get(odd.headers["Location"]).status_code == 200
