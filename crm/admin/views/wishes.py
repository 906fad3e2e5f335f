"""«Предпочитаемые занятия» of a card."""

from __future__ import annotations

from typing import Any

from flask import abort, request
from flask_admin import expose
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from flask_login import current_user
from wtforms import TextAreaField
from wtforms.validators import Length

from crm.admin.base import permission
from crm.admin.fields import Form, ReferenceField
from crm.admin.views.merging import CardMergingView
from crm.catalogue.models import LessonType, Subject
from crm.catalogue.queries import lesson_types_on_offer, subjects_on_offer
from crm.schedule.wishes import add_wish, remove_wish, wishes_of


class WishForm(Form):
    subject = ReferenceField(Subject, _l("Subject of lessons"), query=subjects_on_offer, is_optional=True)
    lesson_type = ReferenceField(LessonType, _l("Lesson type"), query=lesson_types_on_offer, is_optional=True)
    wish = TextAreaField(
        _l("Days and time"),
        [Length(max=2000)],
        render_kw={"rows": 2},
        description=_l("In words: “Tuesdays after six”."),
    )


class CardWishesView(CardMergingView):
    """Of the view of clients."""

    @expose("/card/<id>/wishes/", methods=("GET", "POST"))
    @permission("edit")
    def wishes_view(self, id: str) -> Any:
        """Add a lesson the client would like; with remove= of the card's buttons, take one away."""
        client = self.get_one(id)
        is_removal = bool(request.form.get("remove"))
        form = (Form if is_removal else WishForm)(request.form if request.method == "POST" else None)
        found = [wish for wish in wishes_of(client) if str(wish.id) == request.form.get("remove")]
        if is_removal and not found:
            abort(404)
        return self.answer(
            form,
            lambda: (
                remove_wish(found[0], by=current_user) if is_removal else add_wish(client, **form.data, by=current_user)
            ),
            title=_("Preferred lessons"),
            subtitle=client.shown_name,
            back=self.row_url(client),
            done=lambda _wish: self.row_url(client),
            said=_l("The wish is removed.") if is_removal else _l("The wish is added."),
            submit=_("Add"),
        )
