"""T-Bank's acquiring («Т-Касса», API v2), over plain HTTP: four methods and a signature (decision 0027).

Sums are whole kopecks there. An order of ours is an order of the bank's under the same number, so that a payment whose
beginning was lost is found again.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import ssl
import time
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from functools import cache
from typing import Any

import httpx
from flask_babel import gettext as _

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

ANSWER = "OK"
TIMEOUT = httpx.Timeout(15.0, connect=5.0)
WHOLE_SECONDS = 20.0
MAX_ANSWER_BYTES = 2**20
MAX_DESCRIPTION = 140
MAX_TRIES = 9  # orders of one number: the first, `_2` and so on
# Error codes: the terminal is blocked or unknown, the signature wrong; the bank is busy or does not know itself.
KEY_CODES = frozenset({"202", "204", "205", "501"})
UNSURE = frozenset({"119", "999", "9999"})

# A payment may be waited for, was received (whatever became of it since), or will not be.
STATUSES = {
    **dict.fromkeys(
        (
            *("NEW", "FORM_SHOWED", "PREAUTHORIZING", "AUTHORIZING", "3DS_CHECKING", "3DS_CHECKED", "AUTH_FAIL"),
            *("PAY_CHECKING", "AUTHORIZED", "PARTIAL_REVERSED", "REVERSING", "CONFIRMING", "CONFIRM_CHECKING"),
        ),
        RemoteStatus.PENDING,
    ),
    **dict.fromkeys(
        ("CONFIRMED", "REFUNDING", "ASYNC_REFUNDING", "PARTIAL_REFUNDED", "REFUNDED"), RemoteStatus.SUCCEEDED
    ),
    **dict.fromkeys(
        ("CANCELED", "REVERSED", "REJECTED", "DEADLINE_EXPIRED", "ATTEMPTS_EXPIRED"), RemoteStatus.CANCELED
    ),
}
# A refund, by what became of its payment.
REFUNDS = {
    **dict.fromkeys(("REFUNDED", "PARTIAL_REFUNDED", "REVERSED", "PARTIAL_REVERSED"), RemoteStatus.SUCCEEDED),
    **dict.fromkeys(("REFUNDING", "ASYNC_REFUNDING", "REVERSING"), RemoteStatus.PENDING),
    "CONFIRMED": RemoteStatus.CANCELED,
}
_ID = re.compile(r"\d{1,20}")
_REFUND = re.compile(r"(\d{1,20}):(\d{1,15}):(\d{0,15}):.+", re.ASCII)
_REPEATED = re.compile(r"_[2-9]$")


def token_of(fields: Mapping[str, Any], password: str) -> str:
    """The signature of a request or a notice: SHA-256 of the values of its own fields and the password, by key. What is
    nested is not signed.
    """
    signed = {"Password": password}
    for name, value in fields.items():
        if name != "Token" and value is not None and not isinstance(value, Mapping | list):
            signed[name] = str(value).lower() if isinstance(value, bool) else str(value)
    return hashlib.sha256("".join(signed[name] for name in sorted(signed)).encode(errors="surrogatepass")).hexdigest()


def read_notice(headers: Mapping[str, str], body: bytes) -> Notice:
    """What a notice of T-Bank is about, unbelieved; the terminal key names the shop. Raises NoticeRefused."""
    said = _notice_fields(body)
    names = ("PaymentId", "TerminalKey", "OrderId", "Status")
    external_id, shop_id, order, event = (said.get(name) or "" for name in names)
    if not all(isinstance(text, str) for text in (external_id, shop_id, order, event)):
        raise NoticeRefused("the notice names no payment")
    if not _ID.fullmatch(external_id) or not shop_id:
        raise NoticeRefused("the notice names no payment")
    return Notice(external_id, event[:60], shop_id[:100], _REPEATED.sub("", order)[:100])


class TbankGateway:
    """The Gateway of one terminal at T-Bank; see gateways/base.py for what the verbs promise.

    notice_url: where the bank sends its notices.
    """

    name = "tbank"

    def __init__(self, keys: ShopKeys, *, url: str, notice_url: str) -> None:
        self.shop_id = keys.shop_id
        self._keys, self._url, self._notice_url = keys, url, notice_url
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
        """`reference` is the bank's order number, and what makes it one payment: the bank takes a number once.

        Refused, we look what the number stands for. Paid, and just this sum: there is nothing to show but the return
        page. Begun and shown to nobody (its answer was lost, and with it the form's address): it is given up, and a
        second order made, under the number with `_2`. Begun and shown: somebody is paying this moment. The caller lets
        nobody else ask for the same order meanwhile.
        """
        facts = {
            "Amount": _kopecks(amount, currency),
            "Description": description[:MAX_DESCRIPTION],
            "PayType": "O",
            "NotificationURL": self._notice_url,
            "SuccessURL": return_url,
            "FailURL": return_url,
            **self._receipt(amount, description, customer),
        }
        for number in range(1, MAX_TRIES + 1):
            order = reference if number == 1 else f"{reference}_{number}"
            try:
                made = self._ask("Init", {"OrderId": order, **facts})
            except GatewayRefused as refused:
                if (known := self._known(order)) is None:
                    raise refused
                external_id, status, paid = known
                if STATUSES.get(status) is RemoteStatus.SUCCEEDED:
                    if paid != facts["Amount"]:  # another's order of this name
                        continue
                    return CreatedPayment(external_id, return_url)
                if STATUSES.get(status) is not RemoteStatus.CANCELED:
                    if status != "NEW":
                        raise GatewayError(_("This order is being paid at T-Bank at the moment.")) from refused
                    self._give_up(external_id)
                continue
            form = made.get("PaymentURL")
            if not isinstance(form, str) or not form.startswith(("https://", "http://")):
                raise _unreadable()
            return CreatedPayment(_payment_id(made), form)
        raise GatewayRefused(_("T-Bank has taken this order too many times."))

    def fetch(self, external_id: str) -> RemotePayment:
        said = self._state(external_id)
        status, word = _status(said, STATUSES)
        amount = _amount(said.get("Amount"))
        return RemotePayment(
            external_id,
            status,
            amount,
            "RUB",
            # Not even of REFUNDED: its sum may be of the last refund only.
            None if word in {"REFUNDED", "PARTIAL_REFUNDED", "REFUNDING", "ASYNC_REFUNDING"} else Decimal(0),
            _REPEATED.sub("", str(said.get("OrderId") or "")),
            is_refunded=word == "REFUNDED",
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
        said = self._ask(
            "Cancel",
            {
                "PaymentId": external_id,
                "Amount": _kopecks(amount, currency),
                "ExternalRequestId": idempotence_key,
                **self._receipt(amount, reason or _("Refund"), customer),
            },
        )
        # The bank has no number for a refund: its own payment's, the sum, what it leaves of the payment and our key are
        # what can be asked about.
        left = said.get("NewAmount")
        left = left if isinstance(left, int) and not isinstance(left, bool) else ""
        return self._refund(said, f"{external_id}:{_kopecks(amount, currency)}:{left}:{idempotence_key}"[:100], amount)

    def fetch_refund(self, external_id: str) -> RemoteRefund:
        """The bank tells what has become of the payment, not of one refund. Of a payment partly refunded the refund was
        made when just so much is left of it as the bank said the refund would leave; else nobody knows, and it is
        pending still: an earlier refund looks the same.
        """
        if (named := _REFUND.fullmatch(external_id)) is None:
            raise GatewayRefused(_("T-Bank knows nothing of this number."))
        payment_id, kopecks, left = named.groups()
        said = self._state(payment_id)
        told = self._refund(said, external_id, Decimal(kopecks).scaleb(-2))
        is_part = said["Status"] in {"PARTIAL_REFUNDED", "PARTIAL_REVERSED"}
        if is_part and str(said.get("Amount")) != left:
            return replace(told, status=RemoteStatus.PENDING)
        return told

    def check(self) -> str:
        """Asks about an order that is not there: who signs wrongly is not told so much. Raises GatewayRefused."""
        said = self._send("CheckOrder", {"OrderId": "kontora-check"})
        if str(said.get("ErrorCode")) in KEY_CODES | UNSURE:
            raise _refusal(said)
        return _("T-Bank knows the terminal, and the password is right.")

    def check_notice(self, headers: Mapping[str, str], body: bytes) -> None:
        said = _notice_fields(body)
        if said.get("TerminalKey") != self._keys.shop_id:
            raise NoticeRefused("the notice is of another terminal")
        token = said.get("Token")
        if not isinstance(token, str) or not self._keys.secret:
            raise NoticeRefused("the notice is not signed")
        expected = token_of(said, self._keys.secret)
        if not hmac.compare_digest(token.lower().encode(errors="surrogatepass"), expected.encode()):
            raise NoticeRefused("the signature is not the bank's")

    # --- one question at a time -----------------------------------------------------------------------------------

    def _state(self, external_id: str) -> dict[str, Any]:
        if not _ID.fullmatch(external_id):
            raise GatewayRefused(_("T-Bank knows nothing of this number."))
        said = self._ask("GetState", {"PaymentId": external_id})
        if str(said.get("PaymentId")) != external_id:
            raise _unreadable()
        return said

    def _known(self, order: str) -> tuple[str, str, Any] | None:
        """The bank's payment of an order, its status and kopecks; one that was paid before others. None: none."""
        try:
            said = self._ask("CheckOrder", {"OrderId": order})
        except GatewayRefused:
            return None
        found = [
            (_payment_id(payment), str(payment.get("Status")), payment.get("Amount"))
            for payment in said.get("Payments") or ()
            if isinstance(payment, dict)
        ]
        if not found:
            return None
        ranks = [RemoteStatus.CANCELED, RemoteStatus.PENDING, RemoteStatus.SUCCEEDED]
        return max(found, key=lambda payment: ranks.index(STATUSES.get(payment[1], RemoteStatus.PENDING)))

    def _give_up(self, external_id: str) -> None:
        try:
            self._ask("Cancel", {"PaymentId": external_id})
        except GatewayRefused as error:  # somebody has come to pay meanwhile
            raise GatewayError(_("This order is being paid at T-Bank at the moment.")) from error

    def _refund(self, said: dict[str, Any], external_id: str, amount: Decimal) -> RemoteRefund:
        status, _word = _status(said, REFUNDS)
        error = _("T-Bank did not carry the refund out.") if status is RemoteStatus.CANCELED else ""
        return RemoteRefund(external_id, status, amount, error)

    def _receipt(self, amount: Decimal, what: str, customer: Customer | None) -> dict[str, Any]:
        if self._receipts is None:
            return {}
        receiver, kopecks = self._receipts.receiver(customer), int(amount * 100)
        item = {
            "Name": what[:MAX_ITEM_NAME],
            "Price": kopecks,
            "Quantity": 1,
            "Amount": kopecks,
            "Tax": self._receipts.vat.value,
            "PaymentMethod": self._receipts.mode.value,
            "PaymentObject": self._receipts.subject.value,
        }
        to = {"Email": receiver.email} if receiver.email else {"Phone": receiver.phone}
        return {"Receipt": {**to, "Taxation": self._receipts.tax_system.value, "Items": [item]}}

    def _ask(self, method: str, fields: dict[str, Any]) -> dict[str, Any]:
        """The answer to a question the bank agreed to. Raises GatewayRefused with its reason."""
        said = self._send(method, fields)
        if said.get("Success") is True:
            return said
        raise _refusal(said)

    def _send(self, method: str, fields: dict[str, Any]) -> dict[str, Any]:
        if not self._keys.secret:
            raise KeysRefused(unreadable_key())
        asked = {"TerminalKey": self._keys.shop_id, **fields}
        asked["Token"] = token_of(asked, self._keys.secret)
        deadline, raw = time.monotonic() + WHOLE_SECONDS, bytearray()
        try:
            with httpx.stream(
                "POST", f"{self._url}/{method}", json=asked, timeout=TIMEOUT, verify=_authorities()
            ) as response:
                for part in response.iter_bytes():
                    raw += part
                    if len(raw) > MAX_ANSWER_BYTES or time.monotonic() > deadline:
                        raise GatewayError(_("T-Bank does not answer."))
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError) as error:
            raise GatewayError(_("T-Bank does not answer.")) from error
        if response.status_code == 429 or response.status_code >= 500:
            raise GatewayError(_("T-Bank is not working at the moment (%(status)s).", status=response.status_code))
        try:
            said = json.loads(raw)
        except (ValueError, RecursionError):
            said = None
        if not isinstance(said, dict):
            raise _unreadable()
        return said


@cache
def _authorities() -> ssl.SSLContext:
    return httpx.create_ssl_context()  # a tenth of a second, which httpx would spend on every question


def _notice_fields(body: bytes) -> dict[str, Any]:
    """Numbers stay as they are written: it is the written ones that are signed."""
    try:
        said = json.loads(body, parse_int=str, parse_float=str)
    except (ValueError, RecursionError) as error:
        raise NoticeRefused("the notice cannot be read") from error
    if not isinstance(said, dict):
        raise NoticeRefused("the notice cannot be read")
    return said


def _kopecks(amount: Decimal, currency: str) -> int:
    if currency != "RUB":
        raise GatewayRefused(_("T-Bank takes roubles only."))
    return int(amount * 100)


def _amount(kopecks: Any) -> Decimal:
    if isinstance(kopecks, bool) or not isinstance(kopecks, int) or kopecks < 0:
        raise _unreadable()
    return Decimal(kopecks).scaleb(-2)


def _payment_id(said: Mapping[str, Any]) -> str:
    external_id = str(said.get("PaymentId"))
    if not _ID.fullmatch(external_id):
        raise _unreadable()
    return external_id


def _status(said: Mapping[str, Any], statuses: Mapping[str, RemoteStatus]) -> tuple[RemoteStatus, str]:
    word = said.get("Status")
    if not isinstance(word, str) or word not in statuses:
        raise _unreadable()
    return statuses[word], word


def _refusal(said: Mapping[str, Any]) -> GatewayError:
    """What an answer without success means."""
    code, words = str(said.get("ErrorCode") or ""), _words(said)
    if code in {"", "0"}:
        return _unreadable()
    if code in UNSURE:
        return GatewayError(_("T-Bank is not working at the moment (%(status)s).", status=words))
    if code in KEY_CODES:
        return KeysRefused(_("T-Bank does not accept the shop's keys. %(reason)s", reason=words))
    return GatewayRefused(words)


def _words(said: Mapping[str, Any]) -> str:
    """The bank's reason, short and long."""
    texts = [str(said[name]) for name in ("Message", "Details") if said.get(name)]
    return " ".join(dict.fromkeys(texts))[:300] or _("T-Bank refused, without a reason.")


def _unreadable() -> GatewayError:
    return GatewayError(_("T-Bank answers something that cannot be read."))
