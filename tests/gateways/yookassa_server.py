"""YooKassa as its documents describe it, API v3: payments, refunds, /me, idempotence keys, notices."""

from __future__ import annotations

import base64
import copy
import json
import uuid
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from tests.gateways.service import Answer, Asked, LocalService

Thing = dict[str, Any]


class LocalYookassa(LocalService):
    """shops: their ids and secret keys. refund_status: what becomes of refunds asked for."""

    path = "/v3"

    def __init__(self, shops: dict[str, str] | None = None) -> None:
        super().__init__()
        self.shops = shops or {"100001": "test_secret"}
        self.payments: dict[str, Thing] = {}
        self.refunds: dict[str, Thing] = {}
        self.refund_status = "succeeded"
        self.is_test = False
        self._keys: dict[tuple[str, str, str], tuple[Any, Thing]] = {}

    # --- what the payer and the bank do ---------------------------------------------------------------------------

    def pay(self, payment_id: str, status: str = "succeeded") -> None:
        """The payer has paid; status waiting_for_capture: the money is held, not taken."""
        with self.lock:
            payment = self.payments[payment_id]
            payment.update(status=status, paid=True, refundable=status == "succeeded")
            payment.pop("confirmation", None)
            if status == "succeeded":
                payment.update(captured_at=_now(), refunded_amount={**payment["amount"], "value": "0.00"})

    def cancel(self, payment_id: str, reason: str = "expired_on_confirmation") -> None:
        with self.lock:
            self.payments[payment_id].update(
                status="canceled", cancellation_details={"party": "yoo_money", "reason": reason}
            )

    def give_back(self, payment_id: str, amount: str) -> str:
        """A refund made in the service's own cabinet; its id."""
        with self.lock:
            return str(self._refund(self.payments[payment_id], amount, {})["id"])

    def settle(self, refund_id: str, status: str, reason: str = "insufficient_funds") -> None:
        """A pending refund ends."""
        with self.lock:
            refund = self.refunds[refund_id]
            refund["status"] = status
            if status == "canceled":
                refund["cancellation_details"] = {"party": "yoo_money", "reason": reason}
                self._count_back(refund, -1)

    def notice(self, thing_id: str, event: str | None = None) -> bytes:
        """The notice of what a payment or a refund is now, or of another event."""
        with self.lock:
            kind, things = ("payment", self.payments) if thing_id in self.payments else ("refund", self.refunds)
            thing = copy.deepcopy(things[thing_id])
        said = {"type": "notification", "event": event or f"{kind}.{thing['status']}", "object": thing}
        return json.dumps(said).encode()

    # --- the API ----------------------------------------------------------------------------------------------------

    def error(self, status: int, code: str = "", description: str = "", parameter: str = "") -> Thing:
        codes = {401: "invalid_credentials", 403: "forbidden", 404: "not_found", 429: "too_many_requests"}
        code = code or codes.get(status, "invalid_request" if status < 500 else "internal_server_error")
        said = {"type": "error", "id": str(uuid.uuid4()), "code": code, "description": description or f"Error {status}"}
        return {**said, **({"parameter": parameter} if parameter else {})}

    def answer(self, asked: Asked) -> Answer:
        shop = self._shop(asked.headers.get("authorization", ""))
        if shop is None:
            return Answer(401, self.error(401, description="Login has illegal format"))
        path, _slash, thing_id = asked.path.removeprefix(self.path).strip("/").partition("/")
        if asked.method == "GET":
            things = {"payments": self.payments, "refunds": self.refunds}.get(path, {})
            if path == "me":
                return Answer(200, {"account_id": shop, "status": "enabled", "test": self.is_test})
            thing = things.get(thing_id)
            if thing is None or thing["_shop"] != shop:
                return Answer(404, self.error(404, description=f"Object {thing_id} doesn't exist"))
            return self._said(thing)
        key = asked.headers.get("idempotence-key")
        if not key or len(key) > 64:
            return self._bad("Idempotence key is required", "Idempotence-Key")
        known = self._keys.get((shop, path, key))
        if known is not None:
            if known[0] != asked.body:
                return self._bad("Idempotence key duplicated", "Idempotence-Key")
            return self._said(known[1])
        made = {"payments": self._make_payment, "refunds": self._make_refund}[path](shop, asked.body)
        if isinstance(made, Answer):
            return made
        self._keys[shop, path, key] = (asked.body, made)
        return self._said(made)

    def _shop(self, header: str) -> str | None:
        scheme, _space, coded = header.partition(" ")
        shop, _colon, secret = base64.b64decode(coded).decode().partition(":") if scheme == "Basic" else ("", "", "")
        return shop if self.shops.get(shop) == secret else None

    def _said(self, thing: Thing) -> Answer:
        return Answer(200, copy.deepcopy({name: value for name, value in thing.items() if name[0] != "_"}))

    def _bad(self, description: str, parameter: str) -> Answer:
        return Answer(400, self.error(400, description=description, parameter=parameter))

    def _make_payment(self, shop: str, body: Thing) -> Thing | Answer:
        if Decimal(body["amount"]["value"]) < 1:
            return self._bad("Amount is too small", "amount.value")
        if len(body.get("description", "")) > 128:
            return self._bad("Description is too long", "description")
        if bad := self._bad_receipt(body):
            return bad
        payment_id = str(uuid.uuid4())
        payment = {
            "_shop": shop,
            "_asked": body,
            "id": payment_id,
            "status": "pending",
            "amount": body["amount"],
            "description": body.get("description"),
            "recipient": {"account_id": shop, "gateway_id": "2000001"},
            "created_at": _now(),
            "confirmation": {
                "type": "redirect",
                "return_url": body["confirmation"]["return_url"],
                "confirmation_url": f"https://yoomoney.example/checkout?orderId={payment_id}",
            },
            "test": self.is_test,
            "paid": False,
            "refundable": False,
            "metadata": body.get("metadata", {}),
        }
        self.payments[payment_id] = payment
        return payment

    def _bad_receipt(self, body: Thing) -> Answer | None:
        receipt = body.get("receipt")
        if receipt is None:
            return None
        if not receipt["customer"].get("email") and not receipt["customer"].get("phone"):
            return self._bad("Receipt has no customer's phone or email", "receipt")
        items = receipt["items"]
        total = sum(Decimal(item["amount"]["value"]) * Decimal(item["quantity"]) for item in items)
        if total != Decimal(body["amount"]["value"]):
            return self._bad("Receipt's sum differs", "receipt.items")
        if any(not 1 <= item["vat_code"] <= 12 for item in items):
            return self._bad("Incorrect vat_code", "receipt.items.vat_code")
        return None

    def _make_refund(self, shop: str, body: Thing) -> Thing | Answer:
        payment = self.payments.get(body["payment_id"])
        if payment is None or payment["_shop"] != shop:
            return self._bad("Payment doesn't exist", "payment_id")
        if payment["status"] != "succeeded":
            return self._bad("Only succeeded payments can be refunded", "payment_id")
        left = Decimal(payment["amount"]["value"]) - Decimal(payment["refunded_amount"]["value"])
        if Decimal(body["amount"]["value"]) > left:
            return self._bad("Refund amount is more than the rest of the payment", "amount")
        return self._bad_receipt(body) or self._refund(payment, body["amount"]["value"], body)

    def _refund(self, payment: Thing, value: str, body: Thing) -> Thing:
        refund = {
            "_shop": payment["_shop"],
            "_asked": body,
            "id": str(uuid.uuid4()),
            "payment_id": payment["id"],
            "status": self.refund_status,
            "amount": {**payment["amount"], "value": value},
            "created_at": _now(),
        }
        if self.refund_status == "canceled":
            refund["cancellation_details"] = {"party": "yoo_money", "reason": "insufficient_funds"}
        else:
            self._count_back(refund, 1)
        self.refunds[refund["id"]] = refund
        return refund

    def _count_back(self, refund: Thing, sign: int) -> None:
        back = self.payments[refund["payment_id"]]["refunded_amount"]
        back["value"] = format(Decimal(back["value"]) + sign * Decimal(refund["amount"]["value"]), ".2f")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
