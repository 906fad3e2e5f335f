"""Of a client's card: «Выслать пароль повторно»."""

from __future__ import annotations

from typing import Any

from flask import request
from flask_admin import expose
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from flask_login import current_user

from crm.admin.base import KontoraView, permission
from crm.admin.fields import EnumField, Form
from crm.clients.queries import payer_of
from crm.contacts.models import Channel
from crm.mailings.passwords import WAYS, send_password


class PasswordForm(Form):
    way = EnumField(
        Channel,
        _l("How to send it"),
        members=WAYS,
        description=_l("An SMS costs what its provider takes; an e-mail is free."),
    )


class CardPasswordView(KontoraView):
    """Of the view of clients."""

    @expose("/card/<id>/password/", methods=("GET", "POST"))
    @permission("message.send")
    def password_view(self, id: str) -> Any:
        client = self.get_one(id)
        payer = payer_of(client)
        form = PasswordForm(request.form if request.method == "POST" else None)
        if request.method == "GET" and payer.mobile_phone is None and payer.email:
            form.way.data = Channel.EMAIL
        return self.answer(
            form,
            lambda: send_password(client, form.way.data, by=current_user),
            title=_("Send the password once more"),
            subtitle=_("Personal cabinet of %(name)s. The former password stops working.", name=payer.shown_name),
            back=self.row_url(client),
            done=lambda _message: self.row_url(client),
            said=_("The password is on its way to the client."),
            submit=_("Send"),
        )
