"""/demo-mail/: the letters the supervisor's own mail sink has received, so that the demo needs no mail server.

Open to everybody, so it is there in the demo alone: elsewhere letters are personal data of every branch.
"""

from __future__ import annotations

from collections.abc import Sequence
from email.utils import parseaddr

from flask import Blueprint, Flask, abort, current_app, render_template
from sqlalchemy import func, select

from crm import mail_sink
from crm.access.models import Branch
from crm.access.scope import EVERYWHERE, enter_scope, leave_scope
from crm.db import db
from crm.mailings.models import Message
from crm.public.frame import add_headers

DEFAULT_ZONE = "Europe/Moscow"  # of a letter nobody knows of any more

blueprint = Blueprint("demo_mail", __name__, url_prefix="/demo-mail")
blueprint.after_request(add_headers)


@blueprint.get("/")
def index() -> str:
    letters = mail_sink.letters(mail_sink.folder_of(current_app.config["SETTINGS"]))
    return render_template("public/demo_mail.html", letters=letters, zones=_zones(letters))


@blueprint.get("/<letter_id>")
def show(letter_id: str) -> str:
    letter = mail_sink.letter(mail_sink.folder_of(current_app.config["SETTINGS"]), letter_id)
    if letter is None:
        abort(404)
    return render_template("public/demo_mail_letter.html", letter=letter, zones=_zones([letter]))


def _zones(letters: Sequence[mail_sink.ReceivedLetter]) -> dict[str, str]:
    """Time zones of the branches the letters were written in, by letter: their clock is that of the panel."""
    addresses = {one.id: parseaddr(one.recipient)[1] or one.recipient for one in letters}
    latest = (
        select(func.max(Message.id)).where(Message.recipient.in_({*addresses.values()})).group_by(Message.recipient)
    )
    query = select(Message.recipient, Branch.time_zone).join(Branch, Branch.id == Message.branch_id)
    token = enter_scope(EVERYWHERE)
    try:
        known: dict[str, str] = dict(db.session.execute(query.where(Message.id.in_(latest))).all())
    finally:
        leave_scope(token)
    return {id: known.get(address, DEFAULT_ZONE) for id, address in addresses.items()}


def register(app: Flask) -> None:
    if app.config["SETTINGS"].is_demo:
        app.register_blueprint(blueprint)
