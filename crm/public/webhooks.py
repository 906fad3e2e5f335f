"""Notices of payment gateways. A notice is only a nudge: what is true is asked of the gateway itself."""

from __future__ import annotations

import logging

from flask import request

from crm.errors import DomainError, NotFound
from crm.payments.gateways import TYPES, open_gateway
from crm.payments.gateways.base import GatewayError, NoticeRefused
from crm.payments.operations import accept_notice
from crm.public.frame import public_blueprint

MAX_NOTICE_BYTES = 64 * 2**10

_log = logging.getLogger(__name__)
blueprint = public_blueprint("webhooks", __name__)


@blueprint.post("/webhooks/<name>")
def receive(name: str) -> tuple[str, int]:
    """200: heard, once or again. 400: not the gateway's. 404: not ours. 503 or 500: try again later."""
    try:
        gateway = open_gateway(name)
    except LookupError:
        return "unknown gateway", 404
    request.max_content_length = MAX_NOTICE_BYTES
    try:
        headers, body = {header.lower(): value for header, value in request.headers.items()}, request.get_data()
        gateway.check_notice(headers, body)
        external_id = TYPES[name].read_notice(headers, body).external_id
    except NoticeRefused as error:
        _log.warning("webhook %s refused: %s", name, error)
        return "refused", 400
    try:
        accept_notice(gateway, external_id)
    except NotFound:
        _log.warning("webhook %s: payment %s is not ours", name, external_id)
        return "unknown payment", 404
    except GatewayError as error:
        _log.warning("webhook %s: the gateway does not confirm %s: %s", name, external_id, error)
        return "try again later", 503
    except DomainError as error:
        # Repeating would not mend it: a person has to look. The payment's comment says why nothing was credited.
        _log.error("webhook %s: payment %s not credited: %s", name, external_id, error.code)
        return "held for review", 200
    return "ok", 200
