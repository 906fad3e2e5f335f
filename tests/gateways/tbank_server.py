"""T-Bank's acquiring as its documents describe it, API v2: Init, GetState, CheckOrder, Cancel, signed notices."""

from __future__ import annotations

import hashlib
import itertools
import json
from typing import Any

from tests.gateways.service import Answer, Asked, LocalService

Thing = dict[str, Any]


class LocalTbank(LocalService):
    """terminals: their keys and passwords. takes_repeats: an order number may begin several payments, as at some
    terminals. is_async: refunds take their time, as of payments by QR.
    """

    path = "/v2"

    def __init__(self, terminals: dict[str, str] | None = None) -> None:
        super().__init__()
        self.terminals = terminals or {"1111111111111DEMO": "secret password"}
        self.payments: dict[str, Thing] = {}
        self.takes_repeats = False
        self.is_async = False
        self._numbers = itertools.count(700001)
        self._canceled: set[tuple[str, str]] = set()

    # --- what the payer and the bank do ---------------------------------------------------------------------------

    def pay(self, payment_id: str) -> None:
        self.set_status(payment_id, "CONFIRMED")

    def cancel(self, payment_id: str) -> None:
        self.set_status(payment_id, "REJECTED")

    def set_status(self, payment_id: str, status: str) -> None:
        with self.lock:
            self.payments[payment_id]["Status"] = status

    def give_back(self, payment_id: str, amount: int) -> None:
        """A refund made in the bank's own cabinet, in kopecks."""
        with self.lock:
            self._take_back(self.payments[payment_id], amount)

    def notice(self, payment_id: str, status: str | None = None, *, password: str | None = None) -> bytes:
        """The signed notice of what a payment is now, or of another status; a wrong password signs it wrongly."""
        with self.lock:
            payment = self.payments[payment_id]
            terminal = payment["TerminalKey"]
            said: Thing = {
                "TerminalKey": terminal,
                "OrderId": payment["OrderId"],
                "Success": True,
                "Status": status or payment["Status"],
                "PaymentId": int(payment_id),
                "ErrorCode": "0",
                "Amount": payment["Amount"],
                "CardId": 322264,
                "Pan": "430000******0777",
                "ExpDate": "1122",
                "Data": {"Phone": "+79160000000"},
            }
        said["Token"] = sign(said, password if password is not None else self.terminals[terminal])
        return json.dumps(said).encode()

    # --- the API ----------------------------------------------------------------------------------------------------

    def error(self, status: int, code: str = "", message: str = "", details: str = "") -> Thing:
        said = {"Success": False, "ErrorCode": code or "9999", "Message": message or "Внутренняя ошибка"}
        return {**said, **({"Details": details} if details else {})}

    def answer(self, asked: Asked) -> Answer:
        body = asked.body
        password = self.terminals.get(body.get("TerminalKey"))
        if password is None:
            return self._refuse("501", "Терминал не найден.")
        if body.get("Token") != sign(body, password):
            return self._refuse("204", "Неверные параметры.", "Неверный токен. Проверьте пару TerminalKey/SecretKey.")
        method = asked.path.removeprefix(self.path).strip("/")
        return {"Init": self._init, "GetState": self._state, "CheckOrder": self._check, "Cancel": self._cancel}[method](
            body
        )

    def _refuse(self, code: str, message: str, details: str = "") -> Answer:
        return Answer(200, self.error(200, code, message, details))

    def _init(self, body: Thing) -> Answer:
        if not isinstance(body["Amount"], int) or body["Amount"] < 100:
            return self._refuse("251", "Неверные параметры.", "Сумма должна быть не меньше 100 копеек.")
        if len(body["OrderId"]) > 36 or len(body["Description"]) > 140:
            return self._refuse("211", "Неверные параметры.", "Поле слишком длинное.")
        if not self.takes_repeats and self._of_order(body):
            return self._refuse("8", "Неверный статус заказа.", "Заказ с таким OrderId уже существует.")
        receipt = body.get("Receipt")
        if receipt and sum(item["Amount"] for item in receipt["Items"]) != body["Amount"]:
            return self._refuse("308", "Неверные параметры.", "Сумма чека не равна сумме платежа.")
        payment_id = str(next(self._numbers))
        self.payments[payment_id] = {
            "TerminalKey": body["TerminalKey"],
            "OrderId": body["OrderId"],
            "PaymentId": payment_id,
            "Status": "NEW",
            "Amount": body["Amount"],
            "_asked": body,
        }
        return self._said(self.payments[payment_id], PaymentURL=f"https://pay.tbank.example/{payment_id}")

    def _state(self, body: Thing) -> Answer:
        payment = self._one(body)
        return self._said(payment) if payment else self._refuse("255", "Неверные параметры.", "Платеж не найден.")

    def _check(self, body: Thing) -> Answer:
        found = self._of_order(body)
        if not found:
            return self._refuse("7", "Неверные параметры.", "Заказ не найден.")
        names = ("PaymentId", "Amount", "Status")
        payments = [{name: payment[name] for name in names} | {"Success": True, "ErrorCode": "0"} for payment in found]
        said = {"TerminalKey": body["TerminalKey"], "OrderId": body["OrderId"], "Payments": payments}
        return Answer(200, {**said, "Success": True, "ErrorCode": "0", "Message": "OK"})

    def _cancel(self, body: Thing) -> Answer:
        payment = self._one(body)
        if payment is None:
            return self._refuse("255", "Неверные параметры.", "Платеж не найден.")
        key = body.get("ExternalRequestId")
        before = payment["Amount"]
        if key is None or (payment["PaymentId"], key) not in self._canceled:
            amount = body.get("Amount", before)
            if payment["Status"] in {"NEW", "FORM_SHOWED"}:
                payment["Status"] = "CANCELED"
            elif payment["Status"] in {"CONFIRMED", "PARTIAL_REFUNDED"} and amount <= before:
                self._take_back(payment, amount)
            else:
                return self._refuse("8", "Неверный статус транзакции.", "Изменение статуса невозможно.")
            if key is not None:
                self._canceled.add((payment["PaymentId"], key))
        return self._said(payment, OriginalAmount=before, NewAmount=payment["Amount"], ExternalRequestId=key or "")

    def _take_back(self, payment: Thing, amount: int) -> None:
        is_whole = amount == payment["Amount"]
        if not is_whole:
            payment["Amount"] -= amount
        payment["Status"] = "ASYNC_REFUNDING" if self.is_async else "REFUNDED" if is_whole else "PARTIAL_REFUNDED"

    def _one(self, body: Thing) -> Thing | None:
        payment = self.payments.get(str(body["PaymentId"]))
        return payment if payment and payment["TerminalKey"] == body["TerminalKey"] else None

    def _of_order(self, body: Thing) -> list[Thing]:
        mine = (body["TerminalKey"], body["OrderId"])
        return [one for one in self.payments.values() if (one["TerminalKey"], one["OrderId"]) == mine]

    def _said(self, payment: Thing, **more: Any) -> Answer:
        said = {name: value for name, value in payment.items() if name[0] != "_"}
        return Answer(200, {**said, **more, "Success": True, "ErrorCode": "0", "Message": "OK"})


def sign(fields: Thing, password: str) -> str:
    """As the bank's document has it; written apart from the gateway's."""
    pairs = [(name, value) for name, value in fields.items() if name != "Token" and not isinstance(value, dict | list)]
    texts = {name: json.dumps(value) if isinstance(value, bool) else str(value) for name, value in pairs}
    texts["Password"] = password
    return hashlib.sha256("".join(value for _name, value in sorted(texts.items())).encode()).hexdigest()
