"""Payment gateways. They know money and addresses, no domain: a gateway never sees a bill or a client."""

from __future__ import annotations

from flask import current_app

from crm.payments.gateways import demo, tbank, yookassa
from crm.payments.gateways.base import Gateway, GatewayType, ShopKeys

# One line per kind of gateway: what its webhooks look like.
TYPES: dict[str, GatewayType] = {
    demo.DemoGateway.name: GatewayType(demo.DemoGateway.name, demo.read_notice),
    yookassa.YookassaGateway.name: GatewayType(yookassa.YookassaGateway.name, yookassa.read_notice, is_signed=False),
    tbank.TbankGateway.name: GatewayType(tbank.TbankGateway.name, tbank.read_notice, tbank.ANSWER),
}


def notice_url(name: str) -> str:
    """Where the gateway called `name` sends its notices."""
    return f"{current_app.config['SETTINGS'].public_url}/webhooks/{name}"


def open_gateway(name: str, keys: ShopKeys | None = None) -> Gateway:
    """The gateway called `name`, signed in with `keys`; None for the demo bank, which asks nobody who he is.

    Raises LookupError when there is none such, or it is not to be had here.
    """
    settings = current_app.config["SETTINGS"]
    if name == demo.DemoGateway.name and settings.is_demo:
        return demo.DemoGateway(settings)
    if name == yookassa.YookassaGateway.name and keys is not None:
        return yookassa.YookassaGateway(keys, url=settings.yookassa_url)
    if name == tbank.TbankGateway.name and keys is not None:
        return tbank.TbankGateway(keys, url=settings.tbank_url, notice_url=notice_url(name))
    raise LookupError(f"no gateway {name!r}")


__all__ = ["TYPES", "notice_url", "open_gateway"]
