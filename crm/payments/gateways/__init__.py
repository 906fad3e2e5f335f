"""Payment gateways. They know money and addresses, no domain: a gateway never sees a bill or a client."""

from __future__ import annotations

from collections.abc import Callable

from flask import current_app

from crm.config import Settings
from crm.payments.gateways.base import Gateway
from crm.payments.gateways.demo import DemoGateway

# One line per gateway, real ones first: what builds it from the settings, or None where it is not set up.
_BUILDERS: dict[str, Callable[[Settings], Gateway | None]] = {
    DemoGateway.name: lambda settings: DemoGateway(settings) if settings.is_demo else None,
}


def active_gateway() -> Gateway | None:
    """The gateway new payments go through; None when no bank is connected and money is taken at the desk only."""
    return next((gateway for name in _BUILDERS if (gateway := _build(name)) is not None), None)


def get_gateway(name: str) -> Gateway:
    """The gateway called `name`. Raises LookupError when there is none such, or it is not set up here."""
    gateway = _build(name) if name in _BUILDERS else None
    if gateway is None:
        raise LookupError(f"no gateway {name!r}")
    return gateway


def _build(name: str) -> Gateway | None:
    return _BUILDERS[name](current_app.config["SETTINGS"])


__all__ = ["active_gateway", "get_gateway"]
