"""Kontora: the back office of service businesses. create_app() is the order of wiring, nothing else."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

from flask import Flask
from flask_migrate import Migrate
from flask_wtf import CSRFProtect
from sqlalchemy.orm import Session

# Every table, whichever adapter is the first to ask: foreign keys name each other as text.
import crm.admin.models
import crm.background.models
import crm.bills.models
import crm.contacts.merging
import crm.contracts.models
import crm.debts.merging
import crm.exchange.models
import crm.exchange.schedules.models
import crm.jobs.models
import crm.mailings.fallback
import crm.mailings.models
import crm.mailings.thanks
import crm.payments.models
import crm.schedule.archiving
import crm.schedule.freezing
import crm.schedule.merging
import crm.schedule.models
import crm.subscriptions.models
import crm.tasks.models
import crm.tills.models
import crm.visits.models  # noqa: F401
from crm import admin, cli, i18n, jobs, observability, public, security, static_files
from crm.access.scope import install_scope
from crm.audit.operations import install_audit
from crm.clients.merging import install_merge_guard
from crm.config import ROOT, Settings, read_settings
from crm.db import configure_engine, db, engine_options

__all__ = ["create_app"]

csrf = CSRFProtect()
migrate = Migrate()


class Application(Flask):
    """Flask, told that no function of ours is a coroutine: it would look at a dozen of them in every request."""

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        return func


def create_app(settings: Settings | None = None) -> Flask:
    """Build the application from `settings` (the environment's by default)."""
    settings = settings or read_settings()
    app = Application("crm", template_folder=str(ROOT / "templates"), static_folder=str(ROOT / "static"))
    app.config.update(
        SETTINGS=settings,
        SECRET_KEY=settings.secret_key,
        SQLALCHEMY_DATABASE_URI=settings.database_url,
        SQLALCHEMY_ENGINE_OPTIONS=engine_options(settings.database_url),
        WTF_CSRF_TIME_LIMIT=None,
        MAX_CONTENT_LENGTH=16 * 2**20,
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Lax",
        SESSION_COOKIE_SECURE=settings.is_https,
    )
    observability.register(app)
    db.init_app(app)
    migrate.init_app(app, db, directory=str(ROOT / "migrations"))
    with app.app_context():
        configure_engine(db.engine)
    i18n.register(app)
    csrf.init_app(app)
    security.register(app)
    static_files.register(app)
    jobs.register(app)
    admin.register(app)
    public.register(app, csrf)
    cli.register(app)
    # What is wired by now stays: the collector need not walk it, nor stop for every few hundred rows that come and go.
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
    return app


install_scope(Session)
install_audit(Session)
install_merge_guard(Session)
