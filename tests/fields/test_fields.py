"""Adding, changing, ordering, hiding and deleting fields."""

from __future__ import annotations

from typing import Any

import pytest

from crm.access.actors import SYSTEM
from crm.access.models import Company
from crm.audit.models import AuditEntry
from crm.clients.operations import edit_client
from crm.db import db, transaction
from crm.errors import DomainError, Forbidden
from crm.fields.models import CustomField, FieldType
from crm.fields.operations import (
    Option,
    add_field,
    archive_field,
    edit_custom,
    edit_field,
    hide_built_in,
    hide_field,
    move_field,
    restore_field,
)
from crm.fields.queries import all_fields, hidden_built_ins, is_shown, shown_fields
from tests.factories import Network, make_bill, make_client


def add(company: Company, label: str = "Рост, см", type: FieldType = FieldType.NUMBER, **changes: Any) -> CustomField:
    with transaction():
        return add_field(company, changes.pop("entity", "client"), label=label, type=type, **{"by": SYSTEM, **changes})


def other_company() -> Company:
    with transaction():
        company = Company(name="Речная школа")
        db.session.add(company)
    return company


@pytest.mark.spec("C15", "C18")
def test_the_head_adds_a_field_with_its_characteristics(network: Network) -> None:
    field = add(
        network.company,
        "Класс",
        FieldType.CHOICE,
        options=["5 «А»", "5 «Б»"],
        is_required=True,
        description="Класс школы",
        by=network.owner,
    )
    assert field.key == "klass"
    assert field.options == [{"key": "5_a", "label": "5 «А»"}, {"key": "5_b", "label": "5 «Б»"}]
    assert (field.is_required, field.description, field.position) == (True, "Класс школы", 1)


@pytest.mark.spec("C18")
@pytest.mark.parametrize("role", ["regional", "director", "administrator", "manager", "instructor"])
def test_nobody_below_the_head_adds_fields(network: Network, role: str) -> None:
    with pytest.raises(Forbidden):
        add(network.company, by=getattr(network, role))


def test_support_adds_fields(network: Network) -> None:
    assert add(network.company, by=network.support).id


@pytest.mark.parametrize(
    ("changes", "code", "place"),
    [
        ({"label": " "}, "label_empty", "label"),
        ({"label": "х" * 201}, "label_long", "label"),
        ({"label": "Есть УЖЕ"}, "label_taken", "label"),
        ({"type": FieldType.CHOICE}, "options_empty", "new_options"),
        ({"type": FieldType.CHOICES, "options": ["Да", "да"]}, "option_twice", "new_options"),
        ({"is_required": True, "is_hidden": True}, "field_required", "is_hidden"),
    ],
)
def test_a_senseless_field_is_refused_beside_its_cause(network: Network, changes: Any, code: str, place: str) -> None:
    add(network.company, "есть уже")
    with pytest.raises(DomainError) as refused:
        add(network.company, **changes)
    assert (refused.value.code, refused.value.field) == (code, place)


def test_a_key_is_of_one_type_everywhere_and_shared_by_fields_of_one_name(network: Network) -> None:
    other = other_company()
    assert add(network.company, "Рост").key == "rost"
    assert add(other, "рост").key == "rost"
    assert add(network.company, "Рост!", FieldType.TEXT).key == "rost_2"
    third = Company(name="Третья")
    with transaction():
        db.session.add(third)
    assert add(third, "Рост", FieldType.TEXT).key == "rost_3"


def test_options_of_one_name_share_a_key_between_companies(network: Network) -> None:
    first = add(network.company, "Город", FieldType.CHOICE, options=["Лес", "Река"])
    second = add(other_company(), "Город", FieldType.CHOICE, options=["Река", "река 2", "Гора"])
    assert second.options[0]["key"] == first.options[1]["key"]
    assert len({option["key"] for option in second.options}) == 3


def test_a_deleted_field_never_gives_its_key_away(network: Network) -> None:
    field = add(network.company, "Рост")
    with transaction():
        archive_field(field, by=SYSTEM)
    assert add(network.company, "Рост", FieldType.DATE).key == "rost_2"


def test_a_renamed_option_keeps_what_was_chosen(network: Network) -> None:
    field = add(network.company, "Класс", FieldType.CHOICE, options=["А", "Б"])
    client = make_client(network.lesnoy, custom={"klass": "a"})
    with transaction():
        edit_field(
            field, label="Класс", options=[Option("a", "Первый"), Option("b", "Б"), Option(None, "В")], by=SYSTEM
        )
    assert [option["label"] for option in field.options] == ["Первый", "Б", "В"]
    assert client.custom == {"klass": "a"}


@pytest.mark.parametrize(("type", "value"), [(FieldType.CHOICE, "a"), (FieldType.CHOICES, ["a", "bhv"])])
def test_an_option_in_use_stays_and_the_count_is_told(network: Network, type: FieldType, value: Any) -> None:
    field = add(network.company, "Класс", type, options=["А", "Б В", "БХВ"])
    for branch in (network.lesnoy, network.mira):
        make_client(branch, custom={"klass": value})
    with pytest.raises(DomainError) as refused, transaction():
        edit_field(field, label="Класс", options=[Option("bhv", "БХВ")], by=network.owner)
    assert refused.value.code == "option_in_use"
    assert refused.value.field == "option.a"
    assert "2" in str(refused.value)
    with transaction():  # `_` in a key stands for itself: the free option goes
        edit_field(field, label="Класс", options=[Option("a", "А"), Option("bhv", "БХВ")], by=network.owner)
    assert [option["key"] for option in field.options] == ["a", "bhv"]


def test_fields_are_put_in_order(network: Network) -> None:
    fields = [add(network.company, label) for label in ("Один", "Два", "Три")]
    with transaction():
        move_field(fields[2], up=True, by=SYSTEM)
        move_field(fields[0], up=True, by=SYSTEM)
    assert [field.label for field in all_fields("client")] == ["Один", "Три", "Два"]
    with transaction():
        move_field(fields[0], up=False, by=SYSTEM)
    assert [field.label for field in all_fields("client")] == ["Три", "Один", "Два"]


def test_a_hidden_or_deleted_field_keeps_its_values_and_comes_back(network: Network) -> None:
    field = add(network.company)
    client = make_client(network.lesnoy, custom={"rost_sm": 180})
    for change, back in (
        (lambda: hide_field(field, is_hidden=True, by=SYSTEM), lambda: hide_field(field, is_hidden=False, by=SYSTEM)),
        (lambda: archive_field(field, by=SYSTEM), lambda: restore_field(field, by=SYSTEM)),
    ):
        with transaction():
            change()
        assert shown_fields("client") == []
        with transaction():
            back()
        assert shown_fields("client") == [field]
    assert client.custom == {"rost_sm": 180_000_000}


def test_a_required_field_cannot_be_hidden(network: Network) -> None:
    with pytest.raises(DomainError) as refused:
        hide_field(add(network.company, is_required=True), is_hidden=True, by=SYSTEM)
    assert refused.value.code == "field_required"


@pytest.mark.spec("C14")
def test_support_hides_built_in_fields_of_one_company(network: Network) -> None:
    other = other_company()
    with transaction():
        hide_built_in(network.company, "client", "birth_date", is_hidden=True, by=network.support)
    assert "birth_date" in hidden_built_ins("client", {network.company.id})
    assert "birth_date" not in hidden_built_ins("client", {other.id})
    assert "birth_date" not in hidden_built_ins("client", {network.company.id, other.id})
    with transaction():
        hide_built_in(network.company, "client", "birth_date", is_hidden=False, by=network.support)
    assert is_shown(network.company.id, "client", "birth_date")


@pytest.mark.spec("C14")
@pytest.mark.parametrize("name", ["name", "branch", "phone", "nothing"])
def test_what_the_work_needs_is_not_hidden(network: Network, name: str) -> None:
    with pytest.raises(Forbidden) as refused:
        hide_built_in(network.company, "client", name, is_hidden=True, by=network.support)
    assert refused.value.code == "field_needed"


@pytest.mark.spec("C13")
def test_the_number_is_switched_off_by_support_not_by_the_regional_director(network: Network) -> None:
    with pytest.raises(Forbidden):
        hide_built_in(network.company, "client", "id", is_hidden=True, by=network.regional)
    with transaction():
        hide_built_in(network.company, "client", "id", is_hidden=True, by=network.support)
    assert not is_shown(network.company.id, "client", "id")


@pytest.mark.spec("C16")
def test_a_row_has_the_fields_of_its_company_only(network: Network) -> None:
    add(other_company(), "Чужое")
    with pytest.raises(DomainError) as refused, transaction():
        make_client(network.lesnoy, custom={"chuzhoe": 1})
    assert (refused.value.code, refused.value.field) == ("field_unknown", "custom.chuzhoe")


@pytest.mark.spec("D3", "D4")
def test_only_the_name_is_shown_until_more_is_switched_on(network: Network) -> None:
    client = make_client(network.lesnoy, name="Анна", surname=" Лесная ", patronymic="Петровна")
    assert str(client) == "Анна"
    with transaction():
        hide_built_in(network.company, "client", "surname", is_hidden=False, by=SYSTEM)
    assert str(client) == "Лесная Анна"
    with transaction():
        hide_built_in(network.company, "client", "patronymic", is_hidden=False, by=SYSTEM)
    assert str(client) == "Лесная Анна Петровна"


def test_the_history_has_a_line_for_each_value(network: Network) -> None:
    add(network.company)
    add(network.company, "Класс", FieldType.CHOICE, options=["А"])
    client = make_client(network.lesnoy, custom={"rost_sm": 180})
    with transaction():
        edit_client(client, custom={"rost_sm": None, "klass": "a"}, by=SYSTEM)
    lines = db.session.query(AuditEntry).filter_by(entity="client").order_by(AuditEntry.id).all()
    assert lines[0].changes["custom.rost_sm"] == [None, 180_000_000]
    assert lines[1].changes == {"custom.rost_sm": [180_000_000, None], "custom.klass": [None, "a"]}


def test_values_of_a_bill_are_changed_by_who_may_edit_bills(network: Network) -> None:
    add(network.company, "Договор №", FieldType.TEXT, entity="bill")
    bill = make_bill(make_client(network.lesnoy))
    with pytest.raises(Forbidden):
        edit_custom(bill, {"dogovor_no": "1"}, by=network.instructor)
    with transaction():
        edit_custom(bill, {"dogovor_no": "12/3"}, by=network.director)
    assert bill.custom == {"dogovor_no": "12/3"}
