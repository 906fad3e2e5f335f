"""Payment gateways. They know money and addresses, no domain: a gateway never sees a bill or a client."""

from __future__ import annotations

from flask import current_app

from crm.payments.gateways import demo
from crm.payments.gateways.base import Gateway, GatewayType, ShopKeys

# One line per kind of gateway: what its webhooks look like.
TYPES: dict[str, GatewayType] = {
    demo.DemoGateway.name: GatewayType(demo.DemoGateway.name, demo.read_notice),
}


def open_gateway(name: str, keys: ShopKeys | None = None) -> Gateway:
    """The gateway called `name`, signed in with `keys`; None for the demo bank, which asks nobody who he is.

    Raises LookupError when there is none such, or it is not to be had here.
    """
    settings = current_app.config["SETTINGS"]
    if name == demo.DemoGateway.name and settings.is_demo:
        return demo.DemoGateway(settings)
    raise LookupError(f"no gateway {name!r}")


__all__ = ["TYPES", "open_gateway"]
