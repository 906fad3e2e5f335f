"""Signing in: Argon2, one answer for every failure, guessing slowed down for all processes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select

from crm import clock
from crm.access.actors import SYSTEM
from crm.access.models import LoginAttempt, Role, User
from crm.access.operations import FAILURE_WINDOW, MAX_FAILURES, LoginFailed, create_user, normalise_email, sign_in
from crm.db import db, transaction
from crm.errors import DomainError
from tests.factories import PASSWORD, Network

NOON = datetime(2026, 9, 1, 12, tzinfo=UTC)


def fail(email: str, *, address: str = "192.0.2.1", password: str = "wrong") -> str:
    """Try in vain, as the login page does: the failure is committed. The code of the refusal."""
    with transaction():
        try:
            sign_in(email, password, address=address)
        except DomainError as error:
            return error.code
    raise AssertionError("signed in")


def test_passwords_are_kept_as_argon2id(network: Network) -> None:
    with transaction():
        user = create_user(
            email="New@Demo.test ", name=" Новый ", password="тайна", role=Role.MANAGER, by=network.owner
        )
    assert user.password_hash.startswith("$argon2id$")
    assert "тайна" not in user.password_hash
    assert (user.email, user.name) == ("new@demo.test", "Новый")
    assert sign_in("new@demo.test", "тайна", address="192.0.2.1") is user


def test_the_right_words_let_in(network: Network) -> None:
    with clock.frozen(NOON), transaction():
        user = sign_in(f"  {network.director.email.upper()} ", PASSWORD, address="192.0.2.1")
    assert user is network.director
    assert user.last_login_at == NOON


def test_every_failure_looks_the_same(network: Network) -> None:
    with transaction():
        network.manager.is_active = False
    texts = set()
    for email, password in (
        (network.owner.email, "wrong"),
        ("nobody@demo.test", PASSWORD),
        (network.manager.email, PASSWORD),
        (network.owner.email, ""),
    ):
        with pytest.raises(LoginFailed) as caught:
            sign_in(email, password, address="192.0.2.1")
        texts.add((caught.value.code, str(caught.value), caught.value.status))
    assert len(texts) == 1


def test_guessing_one_address_is_stopped_for_ten_minutes(network: Network) -> None:
    email = network.owner.email
    with clock.frozen(NOON):
        assert [fail(email, address=f"192.0.2.{n}") for n in range(MAX_FAILURES)] == ["login_failed"] * MAX_FAILURES
        assert fail(email, password=PASSWORD, address="192.0.2.99") == "throttled", "the password is not looked at"
        assert fail(email.upper()) == "throttled", "another spelling is the same address"
        assert sign_in(network.director.email, PASSWORD, address="192.0.2.1")
    with clock.frozen(NOON + FAILURE_WINDOW - timedelta(seconds=1)):
        assert fail(email, password=PASSWORD) == "throttled"
    with clock.frozen(NOON + FAILURE_WINDOW + timedelta(seconds=1)):
        assert sign_in(email, PASSWORD, address="192.0.2.1") is network.owner


def test_guessing_from_one_place_is_stopped_too(network: Network) -> None:
    with clock.frozen(NOON):
        with transaction():
            earlier = [LoginAttempt(key="address:192.0.2.1", failed_at=NOON) for _ in range(MAX_FAILURES * 6 - 1)]
            db.session.add_all(earlier)
        assert fail("somebody@demo.test") == "login_failed"
        assert fail(network.owner.email, password=PASSWORD) == "throttled"
        assert sign_in(network.owner.email, PASSWORD, address="192.0.2.2") is network.owner


def test_success_forgets_the_failures(network: Network) -> None:
    email = network.owner.email
    for _ in range(MAX_FAILURES - 1):
        fail(email)
    with transaction():
        sign_in(email, PASSWORD, address="192.0.2.1")
    attempts = select(func.count()).select_from(LoginAttempt).where(LoginAttempt.key.like("email:%"))
    assert db.session.scalar(attempts) == 0
    assert fail(email) == "login_failed"


def test_an_endless_address_does_no_harm(network: Network) -> None:
    assert fail("a" * 100_000 + "@demo.test") == "login_failed"


@pytest.mark.parametrize(
    ("email", "password", "field"), [("nonsense", "demo", "email"), ("a@demo.test", "", "password")]
)
def test_a_user_needs_an_address_and_a_password(network: Network, email: str, password: str, field: str) -> None:
    with pytest.raises(DomainError) as caught:
        create_user(email=email, name="Кто-то", password=password, role=Role.MANAGER, by=SYSTEM)
    assert caught.value.field == field


def test_one_user_per_address(network: Network) -> None:
    with pytest.raises(DomainError) as caught:
        create_user(
            email=network.owner.email.upper(), name="Двойник", password="demo", role=Role.MANAGER, by=network.owner
        )
    assert (caught.value.code, caught.value.field) == ("email_taken", "email")
    assert db.session.scalar(select(func.count()).select_from(User)) == len(network.users)


def test_normalised_addresses() -> None:
    assert normalise_email("  Anna.K@Demo.TEST ") == "anna.k@demo.test"
