"""Notices of payment gateways: stored, answered, and read afterwards by a worker (crm/payments/notices.py)."""

from __future__ import annotations

import logging

from flask import request

from crm.payments.gateways import TYPES
from crm.payments.gateways.base import NoticeRefused
from crm.payments.notices import take_notice
from crm.public.frame import public_blueprint

MAX_NOTICE_BYTES = 64 * 2**10

_log = logging.getLogger(__name__)
blueprint = public_blueprint("webhooks", __name__)


@blueprint.post("/webhooks/<name>")
def receive(name: str) -> tuple[str, int]:
    """200 and the word the service waits for: stored, once or again. 400: not the gateway's. 404: not ours. 500: it
    could not be stored, come again.
    """
    request.max_content_length = MAX_NOTICE_BYTES
    headers, body = {header.lower(): value for header, value in request.headers.items()}, request.get_data()
    try:
        take_notice(name, headers, body)
    except LookupError:
        return "unknown gateway", 404
    except NoticeRefused as error:
        _log.warning("webhook %s refused: %s", name, error)
        return "refused", 400
    return TYPES[name].answer, 200
