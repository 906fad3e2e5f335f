"""Whatever points at a card, or at an account, follows it when two cards are merged, or is excepted with a reason."""

from __future__ import annotations

from typing import Any

import pytest

from crm.clients.merging import BEFORE_MERGE, STAYS, references
from crm.clients.models import Client
from crm.db import db
from crm.ledger.models import Account


def _pointing_at(table: Any) -> set[str]:
    return {
        str(column)
        for other in db.metadata.tables.values()
        for column in other.columns
        if any(key.column.table is table for key in column.foreign_keys)
    }


@pytest.mark.parametrize("model", [Client, Account])
def test_every_reference_follows_or_is_excepted(model: Any) -> None:
    """A table without a model of its own would be forgotten: references() asks the models."""
    followed = {f"{owner.__tablename__}.{column.key}" for owner, column in references(model)}
    assert followed.isdisjoint(STAYS)
    assert followed | (_pointing_at(model.__table__) & STAYS.keys()) == _pointing_at(model.__table__)


def test_every_exception_still_is_one() -> None:
    assert STAYS.keys() <= _pointing_at(Client.__table__) | _pointing_at(Account.__table__)


def test_what_follows_a_card_cannot_meet_its_like_there() -> None:
    """Of what is unique per client a merge would have to make one out of two, as it does of base accounts."""
    unique = {
        index.name
        for owner, column in references(Client)
        for index in [*owner.__table__.indexes, *owner.__table__.constraints]
        if (getattr(index, "unique", False) or type(index).__name__ == "UniqueConstraint")
        and column.key in {part.name for part in index.columns}
    }
    of_accounts = {"uq_account_client_kind", "uq_account_client_lesson_type"}
    of_lessons = {
        *("uq_attendance_lesson_id_client_id", "uq_group_member_group_id_client_id", "uq_trial_payer_id"),
        "uq_waiting_client_id",
    }
    of_contacts = {
        *("uq_contact_client_id_channel", "uq_message_choice_client_id_kind"),
        "uq_client_password_client_id",
    }
    assert unique == of_accounts | of_lessons | of_contacts
    assert {join.__module__ for join in BEFORE_MERGE} == {"crm.contacts.merging", "crm.schedule.merging"}
