"""«Предпочитаемые занятия»: lessons somebody would like and cannot have now."""

from __future__ import annotations

from flask_babel import gettext as _
from sqlalchemy import select
from sqlalchemy.orm import joinedload

from crm import clock
from crm.access.actors import Actor, require
from crm.catalogue.models import LessonType, Subject
from crm.clients.models import Client
from crm.db import db
from crm.errors import DomainError
from crm.schedule.models import PreferredLesson


def add_wish(
    client: Client, *, subject: Subject | None = None, lesson_type: LessonType | None = None, wish: str = "", by: Actor
) -> PreferredLesson:
    """Note what the client would like; wish: day and time in words. Raises DomainError "wish_empty" when nothing of it
    is given. The caller commits.
    """
    require(by, "client.edit", client)
    if not (subject or lesson_type or wish.strip()):
        raise DomainError("wish_empty", _("Choose a subject or a lesson type, or write what the client would like."))
    preferred = PreferredLesson(
        branch_id=client.branch_id,
        client_id=client.id,
        subject_id=subject.id if subject is not None else None,
        lesson_type_id=lesson_type.id if lesson_type is not None else None,
        wish=wish.strip(),
        author_id=by.id,
        created_at=clock.now(),
    )
    db.session.add(preferred)
    db.session.flush()
    return preferred


def remove_wish(preferred: PreferredLesson, *, by: Actor) -> None:
    """The client has it, or wants it no longer. The caller commits."""
    require(by, "client.edit", preferred)
    db.session.delete(preferred)
    db.session.flush()


def wishes_of(client: Client) -> list[PreferredLesson]:
    """In the order they were made."""
    query = select(PreferredLesson).where(PreferredLesson.client_id == client.id).order_by(PreferredLesson.id)
    options = (joinedload(PreferredLesson.subject), joinedload(PreferredLesson.lesson_type))
    return list(db.session.scalars(query.options(*options)))
