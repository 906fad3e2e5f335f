"""Phones: whatever people type is one number; what cannot be one is refused."""

from __future__ import annotations

import pytest
from flask import Flask

from crm.access.actors import SYSTEM
from crm.clients.merging import merge_clients
from crm.clients.models import PhoneKind
from crm.clients.operations import edit_client
from crm.db import transaction
from crm.errors import DomainError
from crm.phones import format_phone, parse_phone, search_digits
from tests.factories import Network, make_client

SPELLINGS = (
    "+79181590830",
    "89181590830",
    "79181590830",
    "9181590830",
    "8 (918) 159-08-30",
    "+7 918 159-08-30",
    "+7(918)159-08-30",
    " 8-918-159-08-30 ",
    "8.918.159.08.30",
)


@pytest.mark.parametrize("text", SPELLINGS)
def test_nine_spellings_of_one_number(text: str) -> None:
    assert parse_phone(text) == "+79181590830"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("+375 29 123-45-67", "+375291234567"), ("+49 30 901820", "+4930901820"), ("8 495 000-00-01", "+74950000001")],
)
def test_other_countries_and_cities(text: str, expected: str) -> None:
    assert parse_phone(text) == expected


@pytest.mark.parametrize("text", ["", "   "])
def test_no_number_is_none(text: str) -> None:
    assert parse_phone(text) is None
    assert format_phone(None) == ""


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
@pytest.mark.parametrize("text", ["12", "abc", "+7 918 159", "8918159083012345", "+999 123", "а" * 10_000])
def test_what_cannot_be_a_number_is_refused_beside_its_field(app: Flask, text: str) -> None:
    with pytest.raises(DomainError) as caught:
        parse_phone(text, field="extra_phone")
    assert (caught.value.code, caught.value.field) == ("phone_invalid", "extra_phone")


def test_the_way_it_is_shown() -> None:
    assert format_phone("+79181590830") == "+7 918 159-08-30"


@pytest.mark.parametrize(
    ("text", "runs"),
    [
        ("8 (918) 159", ["8918159", "918159"]),
        ("+7918", ["7918", "918"]),
        ("159-08-30", ["1590830"]),
        ("08", []),
        ("Анна 918", []),
        ("anna@demo.test", []),
        ("", []),
    ],
)
def test_digits_to_look_for(text: str, runs: list[str]) -> None:
    assert search_digits(text) == runs


@pytest.mark.spec("B39")
def test_a_phone_is_mobile_until_it_is_told_otherwise(network: Network) -> None:
    client = make_client(network.lesnoy, extra_phone="+79180000001")
    assert client.mobile_phone == client.phone
    with transaction():
        edit_client(client, phone_kind=PhoneKind.HOME, by=SYSTEM)
    assert client.mobile_phone == "+79180000001"
    with transaction():
        edit_client(client, extra_phone_kind=PhoneKind.OTHER, by=SYSTEM)
    assert client.mobile_phone is None


def test_a_merge_keeps_a_type_beside_its_number(network: Network) -> None:
    kept = make_client(network.lesnoy)
    gone = make_client(network.lesnoy, phone="84950000001", phone_kind=PhoneKind.WORK)
    with transaction():
        merge_clients(kept, gone, by=SYSTEM)
    assert (kept.phone_kind, kept.extra_phone, kept.extra_phone_kind) == (
        PhoneKind.MOBILE,
        "+74950000001",
        PhoneKind.WORK,
    )
