"""Sessions of staff, scope and origin of each request, security headers, one face for every error."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from flask import Flask, Request, Response, abort, current_app, g, redirect, request, session, url_for
from flask.sessions import SecureCookieSession, SecureCookieSessionInterface, SessionMixin
from flask_babel import gettext as _
from flask_login import AnonymousUserMixin, LoginManager, current_user
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.wrappers import Response as BaseResponse

from crm.access.actors import SYSTEM
from crm.access.models import Branch, User
from crm.access.queries import branches_of, scope_of
from crm.access.scope import NOWHERE, enter_scope, leave_scope, scoped_to
from crm.audit.origin import Origin, acting, set_origin
from crm.db import db, set_read_only
from crm.errors import Forbidden
from crm.static_files import ENDPOINTS

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

# Blueprints whose pages ask nobody who he is: signed in or not, everybody is a stranger there. They set the origin.
OF_STRANGERS: set[str] = set()
_STRANGER = AnonymousUserMixin()

login_manager = LoginManager()


@login_manager.user_loader
def _load_user(session_id: str) -> User | None:
    """The user of a session, as User.get_id() wrote it, unless he was switched off or has a new password since."""
    number, _dot, _password = session_id.partition(".")
    user = db.session.get(User, int(number)) if number.isascii() and number.isdigit() and len(number) < 19 else None
    return user if user is not None and user.is_active and user.get_id() == session_id else None


def _begin() -> None:
    """Who asks, for which branches, and whether SQLite needs the write lock."""
    here, asked = g._get_current_object(), request._get_current_object()  # type: ignore[attr-defined]
    set_read_only(asked.method in {"GET", "HEAD", "OPTIONS"})
    here.scope_token = None
    here.branches = []
    if asked.endpoint in ENDPOINTS:  # for everybody: who asks need not be found out
        return
    if asked.blueprint in OF_STRANGERS:
        here._login_user = _STRANGER  # where Flask-Login keeps whom it has found
        return
    # Always, also for strangers: the thread has served somebody else before.
    set_origin(Origin(SYSTEM, f"request:{g.request_id}"))
    with scoped_to(NOWHERE):
        user: User | None = current_user._get_current_object() if current_user.is_authenticated else None
        g.branches = branches_of(user) if user else []
    if user is not None:
        g.scope = scope_of(user, g.branches, session.get("branch_id"))
        g.scope_token = enter_scope(g.scope)
        set_origin(Origin(user, f"request:{g.request_id}"))


def _end(_error: BaseException | None) -> None:
    token = g.pop("scope_token", None)
    if token is not None:
        leave_scope(token)
    set_read_only(False)


@contextlib.contextmanager
def on_behalf_of(user_id: int, *, branch_id: int | None, locale: str, source: str) -> Iterator[User]:
    """Run a block as a person would have run it from the panel: his rights, his branches, his language.

    branch_id: the branch he had chosen. A request context of its own, because views ask the request who acts; and so a
    database session of its own. Raises Forbidden when he was switched off or has lost the branch since.
    """
    app = current_app._get_current_object()  # type: ignore[attr-defined]
    with (
        app.test_request_context("/admin/", headers={"Accept-Language": locale}),
        _nothing_remembered(),
        scoped_to(NOWHERE),
    ):
        user = db.session.get(User, user_id)
        if user is None or not user.is_active:
            raise Forbidden("forbidden", _("Your role does not allow this action."))
        g.branches = branches_of(user)
        g.scope = scope_of(user, g.branches, branch_id)
        g.request_id = source
        g._login_user = user
        if g.scope.branch_id != branch_id:
            raise Forbidden("foreign_branch", _("This belongs to another branch."))
        with scoped_to(g.scope), acting(user, source):
            db.session.commit()
            yield user


@contextlib.contextmanager
def _nothing_remembered() -> Iterator[None]:
    """An empty `g` for a block: within an app context a request context shares it, and views remember there what the
    person they serve may see.
    """
    remembered = vars(g._get_current_object())
    kept = dict(remembered)
    remembered.clear()
    try:
        yield
    finally:
        remembered.clear()
        remembered.update(kept)


def chosen_branch() -> Branch | None:
    """The branch of the navbar; None in the network interface."""
    branch_id = g.scope.branch_id
    return next((branch for branch in g.branches if branch.id == branch_id), None)


_HEADERS = {
    "Content-Security-Policy": CSP,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
_OVER_TLS = {"Strict-Transport-Security": "max-age=31536000; includeSubDomains"}
_NOT_KEPT = {"Cache-Control": "no-store"}


def _add_headers(response: Response) -> Response:
    """Those the page has not set itself."""
    headers = response.headers
    present = {name.lower() for name, _value in headers}
    wanted = _HEADERS
    if current_app.config["SETTINGS"].is_https:
        wanted = wanted | _OVER_TLS
    if not request.path.startswith("/static/"):
        wanted = wanted | _NOT_KEPT
    for name, value in wanted.items():
        if name.lower() not in present:
            headers.add(name, value)
    return response


class Sessions(SecureCookieSessionInterface):
    """A request without a session's cookie has an empty one: nothing need be deciphered for that."""

    def open_session(self, app: Flask, request: Request) -> SecureCookieSession | None:
        if self.get_cookie_name(app) not in request.cookies:
            return self.session_class() if app.secret_key else None
        return super().open_session(app, request)

    def save_session(self, app: Flask, session: SessionMixin, response: Response) -> None:
        """One that is empty and always was has nothing to be kept, and no page of ours is kept by whose it was."""
        if session or session.modified:
            super().save_session(app, session, response)


def _to_login() -> BaseResponse:
    if request.headers.get("Accept", "").startswith("application/json"):
        abort(401)
    return redirect(url_for("access.login", next=request.full_path if request.method == "GET" else None))


def register(app: Flask) -> None:
    if proxies := app.config["SETTINGS"].trusted_proxies:
        # Each proxy adds itself at the end of the headers: what stands before the trusted ones anybody may have typed.
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=proxies, x_proto=proxies, x_host=proxies)  # type: ignore[method-assign]
    app.session_interface = Sessions()
    login_manager.init_app(app)
    login_manager.unauthorized_handler(_to_login)
    app.before_request(_begin)
    app.teardown_request(_end)
    app.after_request(_add_headers)
