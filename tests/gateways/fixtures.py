"""The two payment services, each running for one test. Import them into a conftest or a test module."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.gateways.tbank_server import LocalTbank
from tests.gateways.yookassa_server import LocalYookassa


@pytest.fixture
def local_yookassa(request: pytest.FixtureRequest) -> Iterator[LocalYookassa]:
    """YooKassa on loopback; an application the test uses asks there."""
    with LocalYookassa() as service:
        yield from _asked_there(request, service, "yookassa_url")


@pytest.fixture
def local_tbank(request: pytest.FixtureRequest) -> Iterator[LocalTbank]:
    """T-Bank on loopback; an application the test uses asks there."""
    with LocalTbank() as service:
        yield from _asked_there(request, service, "tbank_url")


def _asked_there(request, service, setting):
    if "app" not in request.fixturenames:
        yield service
        return
    app = request.getfixturevalue("app")
    before = getattr(app.config["SETTINGS"], setting)
    app.config["SETTINGS"] = replace(app.config["SETTINGS"], **{setting: service.url})
    try:
        yield service
    finally:
        app.config["SETTINGS"] = replace(app.config["SETTINGS"], **{setting: before})
