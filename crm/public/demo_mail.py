"""/demo-mail/: the letters the supervisor's own mail sink has received, so that the demo needs no mail server.

Open to everybody, so it is there in the demo alone: elsewhere letters are personal data of every branch.
"""

from __future__ import annotations

from flask import Blueprint, Flask, abort, current_app, render_template

from crm import mail_sink
from crm.public.frame import add_headers

blueprint = Blueprint("demo_mail", __name__, url_prefix="/demo-mail")
blueprint.after_request(add_headers)


@blueprint.get("/")
def index() -> str:
    letters = mail_sink.letters(mail_sink.folder_of(current_app.config["SETTINGS"]))
    return render_template("public/demo_mail.html", letters=letters)


@blueprint.get("/<letter_id>")
def show(letter_id: str) -> str:
    letter = mail_sink.letter(mail_sink.folder_of(current_app.config["SETTINGS"]), letter_id)
    if letter is None:
        abort(404)
    return render_template("public/demo_mail_letter.html", letter=letter)


def register(app: Flask) -> None:
    if app.config["SETTINGS"].is_demo:
        app.register_blueprint(blueprint)
