"""Calls of the services messages go through. The token in the address says which; Telegram and Viber sign theirs."""

from __future__ import annotations

import logging
from typing import Any

from flask import request

from crm.db import transaction
from crm.mailings.callbacks import HeardTooEarly, provider_of, read_callback
from crm.mailings.channels.hearing import HearingRefused
from crm.public.frame import public_blueprint

MAX_CALL_BYTES = 256 * 2**10

_log = logging.getLogger(__name__)
blueprint = public_blueprint("channel_webhooks", __name__)


@blueprint.post("/channels/<token>")
def receive(token: str) -> tuple[dict[str, Any] | str, int]:
    """200: heard, once or again, and what the bot says to it. 403: not the service's. 404: not ours. 503: too early,
    the service tells it once more.
    """
    request.max_content_length = MAX_CALL_BYTES
    headers, body = {header.lower(): value for header, value in request.headers.items()}, request.get_data()
    try:
        with transaction():
            provider = provider_of(token)
            if provider is None:
                return "unknown provider", 404
            try:
                return read_callback(provider, headers, body), 200
            except HearingRefused as error:
                _log.warning("call of provider %s refused: %s", provider.id, error)
                return "refused", 403
    except HeardTooEarly:  # what came with it is told again too
        return "too early", 503
