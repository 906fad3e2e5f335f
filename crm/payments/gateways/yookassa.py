"""YooKassa, through its SDK: the words of the API are the SDK's, the connection is ours.

The SDK keeps one shop per process, waits for an answer without end, and takes an answer that is no JSON, or none, for a
mistake of its own (decision 0027). So each shop has a client of its own here, with its keys, its connection and its
time limits.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal
from functools import cache
from typing import Any, TypeVar

import requests
import urllib3
from flask_babel import gettext as _
from yookassa.client import ApiClient
from yookassa.domain.common import HttpVerb, RequestObject, UserAgent
from yookassa.domain.models import Me
from yookassa.domain.request import PaymentRequest
from yookassa.domain.request.refund_request import RefundRequest
from yookassa.domain.response import PaymentResponse
from yookassa.domain.response.refund_response import RefundResponse

from crm.payments.gateways.base import (
    CreatedPayment,
    Customer,
    GatewayError,
    GatewayRefused,
    KeysRefused,
    Notice,
    NoticeRefused,
    RemotePayment,
    RemoteRefund,
    RemoteStatus,
    ShopKeys,
    unreadable_key,
)
from crm.payments.gateways.fiscal import MAX_ITEM_NAME, Receipts

T = TypeVar("T")

CONNECT_SECONDS, READ_SECONDS = 5.0, 15.0
WHOLE_SECONDS = 20.0
MAX_ANSWER_BYTES = 2**20
MAX_DESCRIPTION = 128
MAX_REASON = 250

STATUSES = {
    "pending": RemoteStatus.PENDING,
    "waiting_for_capture": RemoteStatus.PENDING,
    "succeeded": RemoteStatus.SUCCEEDED,
    "canceled": RemoteStatus.CANCELED,
}
_ID = re.compile(r"[0-9A-Za-z-]{1,100}")  # goes into an address, and may come from a stranger's notice


def read_notice(headers: Mapping[str, str], body: bytes) -> Notice:
    """What a notice of YooKassa is about, unbelieved. Of a refund: the payment it was made of. Raises NoticeRefused."""
    try:
        said = json.loads(body)
        event, thing = said["event"], said["object"]
        external_id = thing["payment_id"] if event.startswith("refund.") else thing["id"]
        reference = (thing.get("metadata") or {}).get("reference", "")
        shop_id = (thing.get("recipient") or {}).get("account_id", "")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise NoticeRefused("the notice cannot be read") from error
    if not all(isinstance(text, str) for text in (event, external_id, reference, shop_id)):
        raise NoticeRefused("the notice names no payment")
    if said.get("type") != "notification" or not _ID.fullmatch(external_id):
        raise NoticeRefused("the notice names no payment")
    return Notice(external_id, event[:60], shop_id[:100], reference[:100])


class YookassaGateway:
    """The Gateway of one shop at YooKassa; see gateways/base.py for what the verbs promise."""

    name = "yookassa"

    def __init__(self, keys: ShopKeys, *, url: str) -> None:
        self.shop_id = keys.shop_id
        self._client = _ShopClient(keys, url)
        self._receipts = Receipts.read(keys.options)

    def create(
        self,
        *,
        amount: Decimal,
        currency: str,
        description: str,
        return_url: str,
        idempotence_key: str,
        reference: str,
        customer: Customer | None = None,
    ) -> CreatedPayment:
        asked = {
            "amount": _sum(amount, currency),
            "capture": True,
            "confirmation": {"type": "redirect", "return_url": return_url},
            "description": description[:MAX_DESCRIPTION],
            "metadata": {"reference": reference},
            **self._receipt(amount, currency, description, customer),
        }
        payment = self._client.post("/payments", PaymentRequest, asked, idempotence_key, PaymentResponse)
        external_id = _read(lambda: str(payment.id))
        if _status(payment.status) is not RemoteStatus.PENDING:
            return CreatedPayment(external_id, return_url)
        form = _read(lambda: str(payment.confirmation.confirmation_url))
        if not form.startswith(("https://", "http://")):
            raise _unreadable()
        return CreatedPayment(external_id, form)

    def fetch(self, external_id: str) -> RemotePayment:
        payment = self._client.get("/payments", external_id, PaymentResponse)
        refunded = payment.refunded_amount
        return _read(
            lambda: RemotePayment(
                external_id,
                _status(payment.status),
                payment.amount.value,
                payment.amount.currency,
                refunded.value if refunded else Decimal(0),
                str((payment.metadata or {}).get("reference", "")),
                _moment(payment.captured_at),
            )
        )

    def refund(
        self,
        external_id: str,
        *,
        amount: Decimal,
        currency: str,
        idempotence_key: str,
        reason: str,
        customer: Customer | None = None,
    ) -> RemoteRefund:
        asked = {
            "payment_id": external_id,
            "amount": _sum(amount, currency),
            **({"description": reason[:MAX_REASON]} if reason else {}),
            **self._receipt(amount, currency, reason or _("Refund"), customer),
        }
        return _refund(self._client.post("/refunds", RefundRequest, asked, idempotence_key, RefundResponse))

    def fetch_refund(self, external_id: str) -> RemoteRefund:
        return _refund(self._client.get("/refunds", external_id, RefundResponse))

    def check(self) -> str:
        """What the shop is at YooKassa; raises GatewayRefused also when it takes no payments yet."""
        shop = self._client.ask(HttpVerb.GET, "/me", Me)
        if shop.status and shop.status != "enabled":
            raise GatewayRefused(_("YooKassa knows the shop, but it cannot take payments yet."))
        if shop.test:
            return _("YooKassa knows the shop. It is a test one: no real money comes through it.")
        return _("YooKassa knows the shop, and it takes payments.")

    def check_notice(self, headers: Mapping[str, str], body: bytes) -> None:
        """YooKassa signs nothing: whatever a notice says, fetch() decides."""

    def _receipt(self, amount: Decimal, currency: str, what: str, customer: Customer | None) -> dict[str, Any]:
        if self._receipts is None:
            return {}
        receiver = self._receipts.receiver(customer)
        item = {
            "description": what[:MAX_ITEM_NAME],
            "quantity": "1.00",
            "amount": _sum(amount, currency),
            "vat_code": self._receipts.vat.code,
            "payment_subject": self._receipts.subject.value,
            "payment_mode": self._receipts.mode.value,
        }
        to = {"email": receiver.email} if receiver.email else {"phone": receiver.phone.lstrip("+")}
        return {"receipt": {"customer": to, "items": [item], "tax_system_code": self._receipts.tax_system.code}}


class _ShopClient(ApiClient):
    """The SDK's client, of one shop. Two of them share nothing, so threads may use several at once."""

    def __init__(self, keys: ShopKeys, url: str) -> None:
        # Not the SDK's own: it copies the one shop of the process.
        self.endpoint = url
        self.shop_id, self.shop_password, self.auth_token = keys.shop_id, keys.secret, None
        self.user_agent = _user_agent()
        self._session = requests.Session()

    def post(self, path: str, request: type[Any], asked: dict[str, Any], key: str, answer: Callable[[Any], T]) -> T:
        try:
            body = request(asked)
            body.validate()
        except (ValueError, TypeError) as error:  # the SDK knows the API will not take it
            raise GatewayRefused(str(error)) from error
        return self.ask(HttpVerb.POST, path, answer, body=body, headers={"Idempotence-Key": key})

    def get(self, path: str, external_id: str, answer: Callable[[Any], T]) -> T:
        if not _ID.fullmatch(external_id):
            raise GatewayRefused(_("YooKassa knows nothing of this number."))
        said = self.ask(HttpVerb.GET, f"{path}/{external_id}", answer)
        if getattr(said, "id", None) != external_id:
            raise _unreadable()
        return said

    def ask(self, method: str, path: str, answer: Callable[[Any], T], **asked: Any) -> T:
        said = self.request(method, path, **asked)
        return _read(lambda: answer(said))

    def request(
        self, method: str = "", path: str = "", query_params: Any = None, headers: Any = None, body: Any = None
    ) -> dict[str, Any]:
        """The answer's JSON. Instead of the SDK's: faults have a name, a refusal has words."""
        if not self.shop_password:
            raise KeysRefused(unreadable_key())
        asked = dict(body) if isinstance(body, RequestObject) else body
        try:
            status, raw = self.execute(asked, method, path, query_params, self.prepare_request_headers(headers))
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise GatewayError(_("YooKassa does not answer.")) from error
        try:
            said = json.loads(raw)
        except (ValueError, RecursionError):
            said = None
        if not isinstance(said, dict):
            said = {}
            if status == 200:
                raise _unreadable()
        if status == 200:
            return said
        text = str(said.get("description") or "")[:300]
        if status in (401, 403):
            # With nothing else to say of it: a wrong key, or one that was taken back.
            raise KeysRefused(_("YooKassa does not accept the shop's keys. %(reason)s", reason=text).strip())
        if status == 404 and not text:
            raise GatewayRefused(_("YooKassa knows nothing of this number."))
        if 400 <= status < 500 and status not in (408, 429):
            raise GatewayRefused(text or _("YooKassa refused, without a reason."))
        raise GatewayError(_("YooKassa is not working at the moment (%(status)s).", status=status))

    def execute(
        self, body: Any, method: str, path: str, query_params: Any, request_headers: Any
    ) -> tuple[int, bytes | bytearray]:
        """Status and body of the answer. The time is bounded as a whole: an answer may also come drop by drop."""
        deadline = time.monotonic() + WHOLE_SECONDS
        with self._session.request(
            method,
            self.endpoint + path,
            params=query_params,
            headers=request_headers,
            json=body,
            timeout=(CONNECT_SECONDS, READ_SECONDS),
            allow_redirects=False,  # of a POST it would make a GET
            auth=lambda prepared: prepared,  # the header says who we are, whatever ~/.netrc holds
            stream=True,
        ) as response:
            raw = bytearray()
            while part := response.raw.read1(2**16, decode_content=True):
                raw += part
                if len(raw) > MAX_ANSWER_BYTES or time.monotonic() > deadline:
                    raise requests.Timeout("the answer does not end")
            return response.status_code, raw


@cache
def _user_agent() -> Any:
    return UserAgent()  # looks the system up on disk


def _sum(amount: Decimal, currency: str) -> dict[str, str]:
    return {"value": format(amount, ".2f"), "currency": currency}


def _status(word: Any) -> RemoteStatus:
    if word not in STATUSES:
        raise _unreadable()
    return STATUSES[word]


def _refund(refund: Any) -> RemoteRefund:
    status = _status(refund.status)
    reason = refund.cancellation_details.reason if refund.cancellation_details else ""
    return _read(lambda: RemoteRefund(str(refund.id), status, refund.amount.value, str(reason or "")))


def _moment(text: Any) -> datetime | None:
    moment = datetime.fromisoformat(text) if text else None
    if moment is not None and moment.tzinfo is None:
        raise ValueError("a moment without a zone")
    return moment


def _read(make: Callable[[], T]) -> T:
    """Read a part of an answer the SDK took apart, or GatewayError."""
    try:
        return make()
    except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError) as error:
        raise _unreadable() from error


def _unreadable() -> GatewayError:
    return GatewayError(_("YooKassa answers something that cannot be read."))
