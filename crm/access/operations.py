"""Verbs on users: create, sign in with throttling, change password."""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta
from functools import cache
from ipaddress import ip_address

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerifyMismatchError
from email_validator import EmailNotValidError, validate_email
from flask_babel import gettext as _
from sqlalchemy import delete, func, select, update

from crm import clock
from crm.access.actors import Actor, require
from crm.access.models import Branch, City, LoginAttempt, Role, User
from crm.access.permissions import NETWORK_WIDE_ROLES
from crm.access.queries import branches_of
from crm.access.roles import manageable_roles
from crm.db import db
from crm.errors import DomainError, Forbidden

MAX_FAILURES = 5
FAILURE_WINDOW = timedelta(minutes=10)

_hasher = PasswordHasher()


@cache
def _nobody() -> str:
    """Checked when the user is unknown, so that both answers take the same time. Made at the first sign-in: it takes
    64 megabytes, which a worker never needs.
    """
    return _hasher.hash(secrets.token_urlsafe(16))


def may_manage(by: Actor, role: Role) -> bool:
    """May `by` give this role, and change those who have it? See manageable_roles()."""
    return role in manageable_roles(by)


def _require_management(by: Actor, role: Role) -> None:
    if not may_manage(by, role):
        raise Forbidden(
            "mightier_role", _("This role may do more than yours: only who may do as much gives or changes it."), "role"
        )


def _require_reach(by: Actor, user: User | None, branches: list[Branch], cities: list[City]) -> None:
    """Nobody opens to others what is closed to himself, nor changes somebody who also works where he does not.

    user: the person as he is, None for a new one.
    """
    if not isinstance(by, User) or by.role.value in NETWORK_WIDE_ROLES:
        return
    own_branches = {branch.id for branch in branches_of(by)}
    own_cities = {city.id for city in by.cities} if by.role is Role.REGIONAL_DIRECTOR else set()
    if user is not None and not (
        {branch.id for branch in user.branches} <= own_branches and {city.id for city in user.cities} <= own_cities
    ):
        raise Forbidden("works_elsewhere", _("This person also works where you do not: ask who answers for all of it."))
    if not {branch.id for branch in branches} <= own_branches:
        raise Forbidden("foreign_branch", _("This belongs to another branch."), "branches")
    if not {city.id for city in cities} <= own_cities:
        raise Forbidden("foreign_city", _("You do not answer for this city."), "cities")


def create_user(
    *,
    email: str,
    name: str,
    password: str,
    role: Role,
    branches: list[Branch] | None = None,
    cities: list[City] | None = None,
    is_active: bool = True,
    by: Actor,
) -> User:
    """Add a staff user of a role `by` may manage. Raises DomainError beside `email`, `password` or `role`. The caller
    commits.
    """
    require(by, "user.create")
    _require_management(by, role)
    _require_reach(by, None, branches or [], cities or [])
    email = normalise_email(email, field="email")
    if db.session.scalar(select(User.id).where(User.email == email)):
        raise DomainError("email_taken", _("A user with this e-mail already exists."), field="email")
    user = User(
        email=email,
        name=name.strip(),
        password_hash=hash_password(password),
        role=role,
        branches=branches or [],
        cities=cities or [],
        is_active=is_active,
        created_at=clock.now(),
    )
    db.session.add(user)
    db.session.flush()
    return user


def hash_password(password: str) -> str:
    """Argon2id hash. Raises DomainError on an empty password."""
    if not password:
        raise DomainError("password_empty", _("Enter a password."), field="password")
    return _hasher.hash(password)


def is_password_of(password_hash: str, password: str) -> bool:
    """Whether a hash of hash_password() is of this password; as long for one that is empty."""
    try:
        return _hasher.verify(password_hash or _nobody(), password) and bool(password_hash)
    except (VerifyMismatchError, InvalidHashError):
        return False


def normalise_email(text: str, *, field: str | None = None) -> str:
    """Lower-cased, trimmed address. Raises DomainError when it cannot be one."""
    try:
        # Demo and test addresses end in .test, which deliverability checks refuse.
        return validate_email(text.strip(), check_deliverability=False, test_environment=True).normalized.lower()
    except EmailNotValidError:
        raise DomainError("email_invalid", _("This does not look like an e-mail address."), field=field) from None


def sign_in(email: str, password: str, *, address: str) -> User:
    """The user these credentials belong to. Raises DomainError; more than five failures in ten minutes for one
    e-mail, or thirty from one network address, are refused without looking at the password. The caller commits.

    address: of the person; this machine's own is not counted: everybody behind a proxy on it would share it.
    """
    email = email.strip().lower()
    since = clock.now() - FAILURE_WINDOW
    limits = {f"email:{email}"[:300]: MAX_FAILURES}
    if not _is_loopback(address):
        limits[f"address:{address}"[:300]] = MAX_FAILURES * 6
    for key, limit in limits.items():
        failures = db.session.scalar(
            select(func.count())
            .select_from(LoginAttempt)
            .where(LoginAttempt.key == key, LoginAttempt.failed_at > since)
        )
        if (failures or 0) >= limit:
            raise DomainError("throttled", _("Too many attempts. Try again in ten minutes."))
    user = db.session.scalar(select(User).where(User.email == email))
    try:
        _hasher.verify(user.password_hash if user else _nobody(), password)
        matches = user is not None and user.is_active
    except (VerifyMismatchError, InvalidHashError):
        matches = False
    if not matches or user is None:
        for key in limits:
            db.session.add(LoginAttempt(key=key, failed_at=clock.now()))
        raise LoginFailed("login_failed", _("Wrong e-mail or password."))
    db.session.execute(delete(LoginAttempt).where(LoginAttempt.key == f"email:{email}"[:300]))
    # Not through the row: signing in changes nothing that somebody who edits the user could overwrite.
    db.session.execute(update(User).where(User.id == user.id).values(last_login_at=clock.now()))
    return user


def _is_loopback(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return not address  # a unix socket has none


def forget_attempts(*, before: datetime) -> None:
    """Drop failed sign-ins older than an instant; only the last minutes count. The caller commits."""
    db.session.execute(delete(LoginAttempt).where(LoginAttempt.failed_at < before))


class LoginFailed(DomainError):
    """Wrong credentials: the failure is pending in the session and is to be committed by the caller."""

    status = 401


def _require_another_owner(user: User, *, field: str) -> None:
    """Locks the active owners: two who take the role from each other at the same moment leave one."""
    owners = select(User.id).where(User.role == Role.OWNER, User.is_active).order_by(User.id)
    if set(db.session.scalars(owners.with_for_update(key_share=True))) <= {user.id}:
        raise DomainError("last_owner", _("This is the last head of the network; appoint another first."), field)


def change_user(
    user: User,
    *,
    email: str,
    name: str,
    password: str | None,
    role: Role,
    branches: list[Branch],
    cities: list[City],
    is_active: bool,
    by: Actor,
) -> User:
    """Change a staff user; password None keeps the present one. The last active owner stays one. The caller commits.

    Who has a role above that of `by` is out of his reach; his own role nobody changes. Raises DomainError by its field.
    """
    require(by, "user.edit")
    for either in (user.role, role):
        _require_management(by, either)
    if user.id != by.id:
        _require_reach(by, user, branches, cities)
    elif {*user.branches, *user.cities} != {*branches, *cities}:
        _require_reach(by, None, branches, cities)
    email = normalise_email(email, field="email")
    if db.session.scalar(select(User.id).where(User.email == email, User.id != user.id)):
        raise DomainError("email_taken", _("A user with this e-mail already exists."), field="email")
    if user.role is Role.OWNER and user.is_active and not (role is Role.OWNER and is_active):
        _require_another_owner(user, field="is_active" if role is Role.OWNER else "role")
    if user.id == by.id and role is not user.role:
        raise Forbidden("own_role", _("Nobody changes his own role: ask somebody else to."), "role")
    user.email, user.name, user.role, user.is_active = email, name.strip(), role, is_active
    user.branches, user.cities = branches, cities
    user.version += 1  # by itself it would not notice branches and cities: their tables are others
    if password:
        user.password_hash = hash_password(password)
    db.session.flush()
    db.session.expire(user, ["role_settings"])  # of the role he had
    return user
