"""Push notifications in Chromium: a client presses the button of his page, a message is sent, the browser decrypts it
and shows it.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from flask import Flask
from playwright.sync_api import Browser, BrowserContext, expect
from sqlalchemy import select
from werkzeug.serving import make_server

from crm.contacts.models import Channel, Contact
from crm.contacts.operations import contact_url
from crm.db import db, transaction
from crm.mailings.channels.push import SERVICES
from crm.mailings.delivery import deliver_batch
from crm.mailings.models import MessageStatus
from tests import chromium
from tests.browser.push_service import PushService, push_service
from tests.factories import Network, make_client, make_message

pytestmark = pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)

SHOWN = """async () => {
  const registration = await navigator.serviceWorker.getRegistration("/static/push-worker.js");
  return (await registration.getNotifications()).map(({ title, body }) => [title, body]);
}"""


@pytest.fixture
def served(app: Flask, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of the app, really listening there."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    url = f"http://127.0.0.1:{server.port}"
    monkeypatch.setitem(app.config, "SETTINGS", replace(app.config["SETTINGS"], public_url=url))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield url
    finally:
        server.shutdown()
        thread.join()


@pytest.fixture
def service(app: Flask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PushService]:
    with push_service(tmp_path) as service:
        at = urlsplit(service.endpoint)
        monkeypatch.setitem(app.config, "PUSH_SERVICES", [*SERVICES, f"{at.scheme}://{at.netloc}"])
        yield service


@pytest.fixture
def window(browser: Browser, service: PushService, served: str, tmp_path: Path) -> Iterator[BrowserContext]:
    """A window of a profile of its own: a private one gets no notices."""
    context = browser.browser_type.launch_persistent_context(
        tmp_path / "profile",
        executable_path=chromium.find(),
        args=[*service.args, "--disable-gpu", *(["--no-sandbox"] if os.geteuid() == 0 else [])],
        ignore_default_args=["--disable-background-networking"],
        locale="ru-RU",
    )
    context.set_default_timeout(30_000)
    try:
        yield context
    finally:
        context.close()


@pytest.mark.spec("D47")
def test_a_client_connects_his_browser_and_reads_what_is_sent(
    network: Network, service: PushService, served: str, window: BrowserContext
) -> None:
    client = make_client(network.lesnoy)
    with transaction():
        address = contact_url(client)
    window.grant_permissions(["notifications"], origin=served)
    page = window.new_page()
    page.goto(f"{address}/push")
    page.get_by_role("button", name="Показывать уведомления").click()
    expect(page.locator("#push-done")).to_be_visible(timeout=60_000)
    assert service.is_online.wait(60)
    db.session.rollback()
    contact = db.session.scalars(select(Contact).where(Contact.client_id == client.id)).one()
    told = json.loads(contact.address)
    assert (contact.channel, contact.is_on) == (Channel.PUSH, True)
    assert any(told["endpoint"].startswith(known) for known in SERVICES)
    # What Google would push is pushed by a service on loopback; the keys are the browser's own.
    with transaction():
        contact.address = json.dumps({**told, "endpoint": f"{service.endpoint}/1"})
    text = "Занятие завтра в десять"
    message = make_message(client, channel=Channel.PUSH, recipient=str(client.id), subject="", body=text)
    deliver_batch()
    db.session.expire_all()
    assert message.status is MessageStatus.SENT, message.error
    ((headers, body),) = service.posts
    assert headers["authorization"].startswith("vapid t=")
    assert text.encode() not in body
    shown: Any = []
    for second in range(1, 61):
        if shown := page.evaluate(SHOWN):
            break
        if second % 3 == 0:
            service.push_again()
        page.wait_for_timeout(1000)
    assert shown[0] == ["Лесная школа", text]


def test_a_browser_that_may_not_says_so(network: Network, served: str, window: BrowserContext) -> None:
    with transaction():
        address = contact_url(make_client(network.lesnoy))
    window.clear_permissions()
    page = window.new_page()
    page.add_init_script("Object.defineProperty(Notification, 'permission', { get: () => 'denied' })")
    page.goto(f"{address}/push")
    expect(page.locator("#push-none")).to_be_visible()
    expect(page.locator("#push")).to_be_hidden()
