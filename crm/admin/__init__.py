"""The staff panel: Flask-Admin with our own base view, theme and screens. menu.py says what stands where."""

from __future__ import annotations

from flask import Flask
from flask_admin import Admin
from flask_admin.theme import Bootstrap4Theme
from flask_babel import pgettext
from flask_bootstrap import Bootstrap5
from flask_login import current_user

from crm.access.actors import author_shown
from crm.access.fields import field_rules
from crm.admin import exports, session  # noqa: F401 - exports registers what workers run
from crm.admin.home import HomeView
from crm.admin.importing import admit_large_files
from crm.admin.menu import add_views, menu_sections
from crm.admin.money import sees_balances
from crm.once import new_form_key
from crm.phones import format_phone

bootstrap = Bootstrap5()


def sees(field: str) -> bool:
    """Whether the person sees a field (`account.balance`): for pages that show several entities."""
    entity, _dot, name = field.partition(".")
    return name not in field_rules(current_user, entity).hidden


def register(app: Flask) -> None:
    """Attach the panel at /admin/ and the sign-in pages."""
    app.config["BOOTSTRAP_SERVE_LOCAL"] = True
    bootstrap.init_app(app)
    app.jinja_env.filters.update(author=author_shown)
    app.jinja_env.globals.update(
        menu_sections=menu_sections,
        phone=format_phone,
        sees=sees,
        sees_balances=sees_balances,
        new_form_key=new_form_key,
        pgettext=pgettext,
    )
    app.register_blueprint(session.blueprint)
    admit_large_files(app)
    # The theme object only names the base template: every template the panel renders is our own.
    admin = Admin(
        app, name="Kontora", index_view=HomeView(), theme=Bootstrap4Theme(base_template="admin/layout.html")
    )  # fmt: skip
    add_views(admin)
