"""Settings: defaults that run, and one clear line for a bad value."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from crm.config import SettingsError, read_settings


def test_defaults_need_nothing_but_a_folder(tmp_path: Path) -> None:
    settings = read_settings({"DATA_DIR": str(tmp_path / "var")})
    assert settings.database_url == f"sqlite:///{tmp_path}/var/kontora.db"
    assert settings.redis_url == f"unix://{tmp_path}/var/valkey.sock"
    assert settings.port == 8000
    assert settings.public_url == "http://127.0.0.1:8000"
    assert settings.smtp_url is None
    assert settings.yookassa_url == "https://api.yookassa.ru/v3"
    assert settings.tbank_url == "https://securepay.tinkoff.ru/v2"
    assert not settings.is_demo
    assert not settings.is_https
    assert (tmp_path / "var").is_dir()


def test_own_secret_is_made_once_and_is_its_owners(tmp_path: Path) -> None:
    first = read_settings({"DATA_DIR": str(tmp_path)}).secret_key
    assert len(first) >= 48
    assert read_settings({"DATA_DIR": str(tmp_path)}).secret_key == first
    assert stat.S_IMODE((tmp_path / "secret_key").stat().st_mode) == 0o600


def test_public_url_says_whether_cookies_are_secure(tmp_path: Path) -> None:
    settings = read_settings({"DATA_DIR": str(tmp_path), "PUBLIC_URL": "https://kontora.example/"})
    assert settings.is_https
    assert settings.public_url == "https://kontora.example"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "eighty"),
        ("PORT", "0"),
        ("PORT", "65536"),
        ("PORT", "٨٠"),
        ("DATABASE_URL", "nonsense"),
        ("DATABASE_URL", "mysql://host/name"),
        ("DATABASE_URL", "postgresql://host/name"),
        ("REDIS_URL", "http://host"),
        ("SMTP_URL", "host:25"),
        ("PUBLIC_URL", "ftp://host"),
        ("KONTORA_DEMO", "yes"),
        ("TRUSTED_PROXIES", "-1"),
        ("TRUSTED_PROXIES", "many"),
        ("YOOKASSA_URL", "api.yookassa.ru"),
        ("TBANK_URL", "ftp://bank"),
        ("SMS_PROVIDER", "pigeon"),
        ("SMS_URL", "ftp://sms"),
        ("SMS_URL", "http://sms.example.org/send"),
    ],
)
def test_a_bad_value_names_itself(tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"^{name}: ") as caught:
        read_settings({"DATA_DIR": str(tmp_path), name: value})
    assert "\n" not in str(caught.value)


def test_a_folder_that_cannot_be_made_names_itself(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="^DATA_DIR: "):
        read_settings({"DATA_DIR": str(tmp_path / "file" / "var")})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SMS_BODY", '{"text": "{text}", "to": '),
        ("SMS_BODY", "to={phone}"),
        ("SMS_BODY", "msg={text}"),
        ("SMS_TOKEN", "ключ"),
        ("SMS_OK", "status"),
    ],
)
def test_a_gateway_that_is_described_badly_names_what(tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"^{name}: "):
        read_settings({"DATA_DIR": str(tmp_path), "SMS_URL": "https://sms.example.org/", name: value})


def test_sms_ru_needs_its_key_alone(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="^SMS_TOKEN: "):
        read_settings({"DATA_DIR": str(tmp_path), "SMS_PROVIDER": "smsru"})
    settings = read_settings({"DATA_DIR": str(tmp_path), "SMS_PROVIDER": "smsru", "SMS_TOKEN": "key"})
    assert settings.sms is not None
    assert settings.sms.url == "https://sms.ru/sms/send"
    assert "key" not in repr(settings.sms)


def test_without_a_gateway_there_is_none(tmp_path: Path) -> None:
    assert read_settings({"DATA_DIR": str(tmp_path)}).sms is None
