"""Sign in and out, switch between the network and a branch, choose the language and the theme."""

from __future__ import annotations

import re

from flask import (
    Blueprint,
    Response,
    abort,
    flash,
    g,
    make_response,
    redirect,
    render_template,
    request,
    session,
    url_for,
)
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from flask_login import current_user, login_required, login_user, logout_user
from werkzeug.wrappers import Response as BaseResponse
from wtforms import PasswordField, StringField

from crm.access.operations import LoginFailed, sign_in
from crm.admin.fields import REQUIRED, Form
from crm.audit.models import AuditAction
from crm.audit.operations import record
from crm.db import db, transaction
from crm.errors import DomainError
from crm.i18n import LANGUAGES

blueprint = Blueprint("access", __name__)


class LoginForm(Form):
    email = StringField(
        _l("E-mail"),
        [REQUIRED],
        render_kw={"autocomplete": "username", "inputmode": "email", "autofocus": True},
    )
    password = PasswordField(
        _l("Password"),
        [REQUIRED],
        render_kw={"autocomplete": "current-password"},
    )


def _safe_next(target: str | None) -> str:
    """A path of this site to return to; anything else leads home."""
    # Browsers drop tabs and line breaks and read "\\" as "/"; two slashes then name another site.
    if target and re.fullmatch(r"/(?![/\\])[^\x00-\x1f\x7f]*", target):
        return target
    return url_for("admin.index")


@blueprint.route("/")
def root() -> BaseResponse:
    return redirect(url_for("admin.index"))


@blueprint.route("/login", methods=["GET", "POST"])
def login() -> str | BaseResponse | tuple[str, int]:
    if current_user.is_authenticated:
        return redirect(_safe_next(request.args.get("next")))
    form = LoginForm(request.form if request.method == "POST" else None)
    status = 200
    if request.method == "POST" and form.validate():
        failure: DomainError | None = None
        with transaction():
            try:
                user = sign_in(form.email.data, form.password.data, address=request.remote_addr or "")
                record(AuditAction.LOGIN, user, {}, by=user)
            except LoginFailed as error:  # the failure itself is to be committed
                failure = error
            except DomainError as error:
                failure = error
        if failure is None:
            session.clear()
            session.permanent = True
            login_user(user)
            return redirect(_safe_next(request.args.get("next")))
        form.form_errors.append(str(failure))
        status = failure.status
    return render_template("admin/login.html", form=form), status


@blueprint.route("/logout", methods=["POST"])
def logout() -> BaseResponse:
    logout_user()
    session.clear()
    return redirect(url_for("access.login"))


@blueprint.route("/switch", methods=["POST"])
@login_required
def switch() -> BaseResponse:
    """Choose a branch, or the network with an empty value."""
    branch_id = request.form.get("branch_id", "")
    if not branch_id:
        session.pop("branch_id", None)
    elif branch_id in {str(branch.id) for branch in g.branches}:
        session["branch_id"] = int(branch_id)
    else:
        abort(404)
    return redirect(_safe_next(request.form.get("next")))


@blueprint.route("/language", methods=["POST"])
def language() -> BaseResponse:
    chosen = request.form.get("language", "")
    if chosen not in LANGUAGES:
        abort(404)
    response: Response = make_response(redirect(_safe_next(request.form.get("next"))))
    response.set_cookie("lang", chosen, max_age=31536000, samesite="Lax", httponly=True)
    if current_user.is_authenticated:
        with transaction():
            db.session.merge(current_user._get_current_object()).locale = chosen
        flash(_("Saved."), "success")
    return response
