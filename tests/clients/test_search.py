"""Finding clients: by name, both phones in any spelling, e-mail; all but the archived."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crm.access.actors import SYSTEM
from crm.access.scope import Scope, scoped_to
from crm.clients.operations import archive_client, edit_client, restore_client
from crm.clients.queries import find_clients
from crm.db import transaction
from tests.clients.test_phones import SPELLINGS
from tests.factories import Network, make_client


def names(text: str) -> list[str]:
    return [client.name for client in find_clients(text)]


@pytest.mark.spec("C2")
@pytest.mark.parametrize(
    "text",
    [
        "Семёнова",
        "семенова",
        "СЕМЁНОВА",
        "СЕМЕНОВА",
        "мёно",
        "алёна",
        "Алена Семен",
        "семенова алена",
        "  алёна   ИГОРЕВНА ",
    ],
)
def test_by_part_of_the_name_in_any_case_with_or_without_dots(network: Network, text: str) -> None:
    """Cyrillic too: SQLite's own lower() knows Latin letters only."""
    make_client(network.lesnoy, name="Семёнова Алёна Игоревна")
    make_client(network.lesnoy, name="Белова Анна")
    assert names(text) == ["Семёнова Алёна Игоревна"]


@pytest.mark.spec("C2")
def test_a_name_written_without_dots_is_found_with_them(network: Network) -> None:
    make_client(network.lesnoy, name="Семенов Артем")
    assert names("семёнов артём") == ["Семенов Артем"]


@pytest.mark.spec("C2")
@pytest.mark.parametrize("text", [*SPELLINGS, "159-08-30", "918159", "8 918 159", "+7 918", "0830"])
@pytest.mark.parametrize("field", ["phone", "extra_phone"])
def test_by_either_phone_in_any_spelling(network: Network, field: str, text: str) -> None:
    phones = {"phone": "", "extra_phone": "", field: "8 (918) 159-08-30"}
    make_client(network.lesnoy, name="Белова Анна", **phones)
    make_client(network.lesnoy, name="Другая Вера", phone="8 903 777-66-55", email="")
    assert names(text) == ["Белова Анна"]


@pytest.mark.spec("C2")
@pytest.mark.parametrize("text", ["belova@demo.test", "BELOVA@", "lova@de"])
def test_by_email(network: Network, text: str) -> None:
    make_client(network.lesnoy, name="Анна", email="Belova@Demo.Test")
    make_client(network.lesnoy, name="Вера")
    assert names(text) == ["Анна"]


@pytest.mark.spec("C3")
def test_archived_cards_are_not_found_until_restored(network: Network) -> None:
    client = make_client(network.lesnoy, name="Белова Анна")
    make_client(network.lesnoy, name="Белова Вера")
    with transaction():
        archive_client(client, by=SYSTEM)
    assert names("белова") == ["Белова Вера"]
    with transaction():
        restore_client(client, by=SYSTEM)
    assert names("белова") == ["Белова Анна", "Белова Вера"]


@pytest.mark.spec("C3")
def test_all_branches_of_the_scope_are_searched(network: Network) -> None:
    make_client(network.lesnoy, name="Белова Анна")
    make_client(network.mira, name="Белова Вера")
    assert names("белова") == ["Белова Анна", "Белова Вера"]
    scope = Scope(frozenset({network.mira.id}))
    with scoped_to(scope):
        assert names("белова") == ["Белова Вера"]


def test_a_changed_card_is_found_by_what_it_says_now(network: Network) -> None:
    client = make_client(network.lesnoy, name="Белова Анна", phone="89181590830")
    with transaction():
        edit_client(
            client,
            by=SYSTEM,
            name="Чернова Анна",
            phone="89037776655",
            extra_phone="",
            email="",
            birth_date=None,
            comment="",
        )
    assert names("белова") == names("9181590830") == []
    assert names("чернова") == names("9037776655") == ["Чернова Анна"]


@pytest.mark.parametrize("text", ["", "   ", "%", "_", "\\", "\x00", "a%", "'; DROP TABLE client; --", "Б" * 5000])
def test_strange_texts_find_nothing_and_break_nothing(network: Network, text: str) -> None:
    make_client(network.lesnoy, name="Анна", email="anna@demo.test")
    assert names(text) == []


def test_signs_of_patterns_are_letters_like_others(network: Network) -> None:
    make_client(network.lesnoy, name="Скидка 50% Анна")
    make_client(network.lesnoy, name="Скидка 500 Вера")
    assert names("50%") == ["Скидка 50% Анна"]


def test_no_more_than_asked_for(network: Network) -> None:
    for number in range(5):
        make_client(network.lesnoy, name=f"Белова {number}")
    assert [client.name for client in find_clients("белова", limit=3)] == ["Белова 0", "Белова 1", "Белова 2"]


def naive(text: str, names: list[str]) -> list[str]:
    """What is found by reading: each word a part of the folded name, a short one the beginning of a word."""
    found = []
    for name in names:
        folded = " " + " ".join(name.lower().replace("ё", "е").split())
        words = text.lower().replace("ё", "е").split()
        if all((f" {word}" if len(word) <= 2 else word) in folded for word in words):
            found.append(name)
    return sorted(found)


@pytest.mark.spec("C2")
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(alphabet='аеёнАЕЁН%_\\"*^-', min_size=1, max_size=9).filter(str.strip))
def test_both_databases_find_what_reading_finds(network: Network, text: str) -> None:
    """Signs of patterns and of full-text queries among the letters."""
    named = ["Аня Ёнаева", "ан_на", "Нэ%ана", "еЁе*", 'аа"нна', "ен-ан", "аёа\\на", "ё^е", "нан ананас", "Е"]
    if not names("аня енаева"):
        for name in named:
            make_client(network.lesnoy, name=name, phone="", email="")
    assert sorted(names(text)) == naive(text, named)


def test_a_short_word_begins_a_word(network: Network) -> None:
    make_client(network.lesnoy, name="Янина Анна")
    make_client(network.lesnoy, name="Марьян Олег")
    assert names("ян") == names("Я ан") == ["Янина Анна"]
