"""Reads about people and places."""

from __future__ import annotations

from sqlalchemy import select

from crm.access.models import Branch, Role, User
from crm.access.permissions import NETWORK_WIDE_ROLES
from crm.access.scope import Scope
from crm.db import db


def branches_of(user: User) -> list[Branch]:
    """The branches whose rows `user` may see, by name."""
    query = select(Branch).order_by(Branch.name)
    if user.role.value not in NETWORK_WIDE_ROLES:
        if user.role is Role.REGIONAL_DIRECTOR:
            query = query.where(Branch.city_id.in_([city.id for city in user.cities]))
        else:
            query = query.where(Branch.id.in_([branch.id for branch in user.branches]))
    return list(db.session.scalars(query))


def scope_of(user: User, branches: list[Branch], chosen: int | None) -> Scope:
    """Scope of a request: the chosen branch when it is one of `branches`, else all of `branches` (the network)."""
    if chosen in {branch.id for branch in branches}:
        return Scope(frozenset({chosen}) if chosen is not None else frozenset(), chosen)
    if user.role.value in NETWORK_WIDE_ROLES:
        return Scope(None)
    return Scope(frozenset(branch.id for branch in branches))


def support_contacts() -> list[User]:
    """Whom staff turn to about Kontora itself: the users of the role "support" in use, by name."""
    query = select(User).where(User.role == Role.SUPPORT, User.is_active).order_by(User.name, User.id)
    return list(db.session.scalars(query))
