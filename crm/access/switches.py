"""What a company uses of Kontora and what it does not: switched by technical support and by the owner."""

from __future__ import annotations

from crm.access.actors import Actor, require
from crm.access.models import Company
from crm.db import db

SWITCHES = ("has_waiting_list", "has_parallel_rooms", "binds_instructor")


def set_switches(company: Company, *, by: Actor, **switches: bool) -> Company:
    """Turn some of SWITCHES on and off; `by` needs the right to what differs only. The caller commits."""
    if unknown := switches.keys() - set(SWITCHES):
        raise TypeError(f"no such switches: {', '.join(sorted(unknown))}")
    for name, is_on in switches.items():
        if getattr(company, name) is not is_on:
            require(by, "company.switch")
            setattr(company, name, is_on)
    db.session.flush()
    return company
