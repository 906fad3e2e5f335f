"""Each person's layout of a grid: which columns, in which order, how wide; it is his alone."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.factories import make_bill, make_client

PATH = "/admin/client/layout/"
ALL = ("name", "phone", "email", "payer", "branch", "created_at")


def shown(client: Any, address: str = "/admin/client/") -> list[str]:
    return re.findall(r'data-col="([^"]+)"', client.get(address).text)


def arrange(client: Any, *columns: str, **more: Any) -> Any:
    return client.post(PATH, data={"do": "apply", "order": list(columns), "column": list(columns), **more})


@pytest.fixture
def anna(network: Any) -> Any:
    return make_client(network.lesnoy, name="Анна Петрова", comment="Любит чай")


def test_columns_are_chosen_and_ordered_by_each_person(network: Any, web: Any, anna: Any) -> None:
    mine, other = web(network.owner), web(network.director)
    assert arrange(mine, "email", "name", "phone").status_code == 302
    assert shown(mine) == ["email", "name", "phone"]
    assert shown(other) == shown(web(network.manager)) != ["email", "name", "phone"]


def test_a_button_moves_a_column_up_or_down(network: Any, web: Any, anna: Any) -> None:
    client = web(network.owner)
    arrange(client, "name", "phone", "email", do="up:email")
    assert shown(client) == ["name", "email", "phone"]
    arrange(client, "name", "email", "phone", do="down:name")
    assert shown(client) == ["email", "name", "phone"]
    arrange(client, "email", "name", "phone", do="up:email")
    assert shown(client) == ["email", "name", "phone"]


def test_pinned_columns_come_first_and_say_so(network: Any, web: Any, anna: Any) -> None:
    client = web(network.owner)
    arrange(client, "name", "phone", "email", pin=["email"])
    assert shown(client) == ["email", "name", "phone"]
    assert re.search(r'data-col="email"[^>]* data-pin', client.get("/admin/client/").text)


def test_widths_are_classes_of_the_cells(network: Any, web: Any, anna: Any) -> None:
    client = web(network.owner)
    answer = client.post(PATH, data={"do": "width:phone", "width": "13"}, headers={"X-Panel": "1"})
    assert answer.status_code == 204
    page = client.get("/admin/client/").text
    assert re.search(r'<td class="[^"]*\bw12\b', page)
    assert "style=" not in page


def test_density_page_size_and_relative_times(network: Any, web: Any, anna: Any) -> None:
    client = web(network.owner)
    arrange(client, *ALL, density="compact", size="25", times="relative")
    page = client.get("/admin/client/").text
    assert "grid compact" in page
    assert re.search(r'<time datetime="[^"]+" title="\d\d\.\d\d\.\d{4} \d\d:\d\d">', page)
    for _i in range(30):
        make_client(network.lesnoy)
    page = client.get("/admin/client/").text
    assert page.count("data-row=") == 25
    assert client.get("/admin/client/?size=50").text.count("data-row=") == 31


def test_links_keep_a_page_size_that_is_not_the_layouts(network: Any, web: Any, anna: Any) -> None:
    client = web(network.owner)
    arrange(client, *ALL, size="25")
    for _i in range(60):
        make_client(network.lesnoy)
    page = client.get("/admin/client/?size=50").text
    assert re.search(r'rel="next" href="\?[^"]*size=50', page)


def test_reset_brings_back_the_columns_of_the_view(network: Any, web: Any, anna: Any) -> None:
    client = web(network.owner)
    before = shown(client)
    arrange(client, "email", "name")
    client.post(PATH, data={"do": "reset"})
    assert shown(client) == before


def test_nonsense_is_as_if_it_had_not_been_sent(network: Any, web: Any, anna: Any) -> None:
    client = web(network.owner)
    before = shown(client)
    for data in (
        {"do": "width:nothing", "width": "13"},
        {"do": "width:name", "width": "x" * 50},
        {"do": "apply", "order": ["password_hash", "%00"], "column": ["password_hash", "%00"]},
        {"do": "apply", "order": ["name"], "column": ["name"], "size": "999999", "density": "zzz", "width.name": "-1"},
        {"do": "up:nothing"},
        {},
    ):
        assert client.post(PATH, data={**data, "state": "q=%00&" + "a" * 9000}).status_code == 302
    assert shown(client) in (before, ["name"])


def test_the_branch_is_left_out_within_a_branch_and_keeps_its_place(network: Any, web: Any, anna: Any) -> None:
    arrange(web(network.owner), "name", "branch", "phone")
    assert shown(web(network.owner, network.lesnoy)) == ["name", "phone"]
    arrange(web(network.owner, network.lesnoy), "phone", "name")
    assert set(shown(web(network.owner))) == {"phone", "name", "branch"}


def test_the_panel_is_a_page_of_its_own_and_a_fragment_for_the_script(network: Any, web: Any, anna: Any) -> None:
    client = web(network.manager)
    page = client.get(PATH)
    assert page.status_code == 200
    assert "<html" in page.text
    fragment = client.get(PATH, headers={"X-Panel": "1"})
    assert "<html" not in fragment.text
    assert 'name="column" value="phone"' in fragment.text


def test_queries_do_not_depend_on_the_layout_of_others(network: Any, web: Any, anna: Any) -> None:
    arrange(web(network.owner), *ALL[::-1])
    assert shown(web(network.owner)) == [*ALL[::-1]]
    assert shown(web(network.director)) != [*ALL[::-1]]


def test_a_page_of_fifty_bills_is_light(network: Any, web: Any) -> None:
    client = make_client(network.lesnoy, name="Константинопольская Александра Вячеславовна")
    for _i in range(50):
        make_bill(client)
    page = web(network.owner).get("/admin/bill/")
    assert page.text.count("data-row=") == 50
    assert len(page.data) < 62_000  # 40 of them the rows, the most of the rest the menu


def test_static_files_may_be_kept_and_change_their_address_with_their_content(network: Any, web: Any) -> None:
    client = web(network.owner)
    page = client.get("/admin/client/").text
    addresses = re.findall(r'(?:href|src)="((?:/static|/bootstrap)[^"]+)"', page)
    assert len(addresses) == 6
    for address in addresses:
        assert re.search(r"\?v=[0-9a-f]{10}$", address), address
        with client.get(address) as answer:
            assert "max-age=31536000" in answer.headers["Cache-Control"], address
    assert 'rel="icon" href="data:' in page
