"""What every public page shares: the scope it runs in and the headers it leaves with."""

from __future__ import annotations

from urllib.parse import urlsplit

from flask import Blueprint, Response, current_app, g

from crm.access.actors import System
from crm.access.scope import EVERYWHERE, enter_scope, leave_scope
from crm.audit.origin import Origin, set_origin
from crm.security import CSP

VISITOR = System("public page")


def public_blueprint(name: str, import_name: str) -> Blueprint:
    """A blueprint of pages without sign-in: they see every branch (the token says which bill), are not kept by
    browsers or search engines, and do not tell other sites the address they were left from: it holds the token.
    """
    blueprint = Blueprint(name, import_name)
    blueprint.before_request(_begin)
    blueprint.teardown_request(_end)
    blueprint.after_request(_add_headers)
    return blueprint


def _begin() -> None:
    g.public_scope_token = enter_scope(EVERYWHERE)
    set_origin(Origin(VISITOR, f"request:{g.request_id}"))


def _end(_error: BaseException | None) -> None:
    token = g.pop("public_scope_token", None)
    if token is not None:
        leave_scope(token)


def _add_headers(response: Response) -> Response:
    public_url = urlsplit(current_app.config["SETTINGS"].public_url)
    # Chromium applies form-action to where the answer redirects, too: our button leads to the bank, the bank's back.
    form_action = f"form-action 'self' https: {public_url.scheme}://{public_url.netloc}"
    response.headers["Content-Security-Policy"] = CSP.replace("form-action 'self'", form_action)
    response.headers["Referrer-Policy"] = "no-referrer"
    response.headers["X-Robots-Tag"] = "noindex, nofollow"
    response.headers["Cache-Control"] = "no-store"
    return response
