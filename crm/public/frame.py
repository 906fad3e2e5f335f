"""What every public page shares: the scope it runs in, its style, its words, the headers it leaves with."""

from __future__ import annotations

import hashlib
import json
import re
from base64 import b64encode
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from flask import Blueprint, Flask, Response, current_app, g
from flask_babel import get_locale, get_translations
from jinja2 import Environment
from jinja2.ext import Extension
from markupsafe import Markup

from crm.access.actors import System
from crm.access.scope import EVERYWHERE, enter_scope, leave_scope
from crm.audit.origin import Origin, set_origin
from crm.config import ROOT
from crm.security import CSP, OF_STRANGERS

VISITOR = System("public page")


def public_blueprint(name: str, import_name: str) -> Blueprint:
    """A blueprint of pages without sign-in: they see every branch (the token says which bill), are not kept by
    browsers or search engines, and do not tell other sites the address they were left from: it holds the token.
    """
    blueprint = Blueprint(name, import_name)
    OF_STRANGERS.add(name)
    blueprint.before_request(_begin)
    blueprint.teardown_request(_end)
    blueprint.after_request(add_headers)
    return blueprint


def register(app: Flask) -> None:
    """The style sheet stands in the page: one request is all a page takes."""
    app.jinja_env.globals["public_style"] = Markup(f"<style>{style()}</style>")  # noqa: S704 - our own file
    app.extensions["public_pages"] = {}


def render(template: str, language: str | None = None, /, **values: Any) -> str:
    """A page in a language, the person's by default."""
    return page_in(language or str(get_locale())).get_template(template).render(values)


def page_in(language: str) -> Environment:
    """The templates as they are in one language: texts without variables stand in them as if they were written there.

    Not render_template() either: what that adds for pages of staff asks who is signed in.
    """
    known: dict[str, Environment] = current_app.extensions["public_pages"]
    if language not in known:
        spoken = current_app.jinja_env.overlay(extensions=[_Spoken])
        catalogue = get_translations()

        def translate(text: str, **variables: Any) -> Markup:
            return Markup(catalogue.ugettext(text)) % variables  # noqa: S704 - the catalogue is ours

        spoken.globals = {**spoken.globals, "_": translate, "language": language}
        spoken.extensions[_Spoken.identifier].catalogue = catalogue  # type: ignore[attr-defined]
        # One dict for a template: Jinja would look each name up in two, for every page anew.
        spoken.make_globals = lambda more: {**spoken.globals, **(more or {})}  # type: ignore[assignment]
        known[language] = spoken
    return known[language]


class _Spoken(Extension):
    """Puts translated texts in the place of `_("…")` before a template is compiled."""

    catalogue: Any
    _TEXT = re.compile(r"""(?<![\w"])_\(("(?:[^"\\]|\\.)*")\)""")

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:
        return self._TEXT.sub(lambda found: json.dumps(self._said(found[1]), ensure_ascii=False), source)

    def _said(self, quoted: str) -> str:
        return str(self.catalogue.ugettext(json.loads(quoted)))


@cache
def style() -> str:
    """static/public.css without what only its readers need."""
    text = (ROOT / "static/public.css").read_text()
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    return re.sub(r"\s*([{};,])\s*|(?<=:)\s+", r"\1", re.sub(r"\s+", " ", text)).replace(";}", "}").strip()


@cache
def _policy(public_url: str) -> str:
    digest = b64encode(hashlib.sha256(style().encode()).digest()).decode()
    at = urlsplit(public_url)
    # Chromium applies form-action to where the answer redirects, too: our button leads to the bank, the bank's back.
    form_action = f"form-action 'self' https: {at.scheme}://{at.netloc}"
    policy = CSP.replace("style-src 'self'", f"style-src 'self' 'sha256-{digest}'")
    return policy.replace("form-action 'self'", form_action)


def _begin() -> None:
    g.public_scope_token = enter_scope(EVERYWHERE)
    set_origin(Origin(VISITOR, f"request:{g.request_id}"))


def _end(_error: BaseException | None) -> None:
    token = g.pop("public_scope_token", None)
    if token is not None:
        leave_scope(token)


def add_headers(response: Response) -> Response:
    """For pages of strangers: what a browser may do on them, and that nobody keeps them."""
    headers = response.headers
    headers.add("Content-Security-Policy", _policy(current_app.config["SETTINGS"].public_url))
    headers.add("Referrer-Policy", "no-referrer")
    headers.add("X-Robots-Tag", "noindex, nofollow")
    headers.add("Cache-Control", "no-store")
    return response
