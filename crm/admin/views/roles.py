"""Roles: what each may, changed by the owner; and what a person can do and why."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from flask import abort, flash, redirect, request, url_for
from flask_admin import expose
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from flask_babel import pgettext
from flask_login import current_user

from crm.access.models import FieldRule, Role, RoleSettings, User
from crm.access.permissions import ACTION_NAMES, is_built_in
from crm.access.roles import change_role, reset_role
from crm.admin.base import KontoraView, permission
from crm.admin.fields import Form
from crm.admin.history import FieldChange
from crm.admin.rights import EntityRights, changes_of_role, rights_of_role
from crm.audit.models import AuditEntry
from crm.db import db


class RoleView(KontoraView):
    entity = "role"
    icon = "shield-lock"
    column_list = ("role",)
    column_default_sort = "id"
    form = Form  # the matrix is its form: no cell and no field of it is changed otherwise
    edits = True
    list_template = "admin/roles.html"

    def may_edit_row(self, row: Any) -> bool:
        return super().may_edit_row(row) and row.role is not Role.OWNER

    @expose("/")
    def index_view(self) -> Any:
        """The roles, with how many people have each and how far it is from the built-in one."""
        people = sa.select(User.role, sa.func.count()).where(User.is_active).group_by(User.role)
        return self.render(
            self.list_template,
            roles=list(db.session.scalars(sa.select(RoleSettings).order_by(RoleSettings.id))),
            people=dict(iter(db.session.execute(people))),
        )

    @expose("/details/")
    def details_view(self) -> Any:
        settings = self.get_one(request.args.get("id"))
        return self.render("admin/role.html", **self._shown(settings, settings.permissions, settings.fields))

    @expose("/edit/", methods=("GET", "POST"))
    def edit_view(self) -> Any:
        """The matrix as a form → what will change → saved."""
        settings = self.get_one(request.values.get("id"))
        if not self.may_edit_row(settings):
            abort(403)
        if request.method == "GET":
            return self.render(
                "admin/role.html", **self._shown(settings, settings.permissions, settings.fields), form=Form()
            )
        permissions, fields = self._sent(settings)
        is_stale = request.form.get("version") != str(settings.version)
        is_confirmed = request.form.get("confirmed") == "1"
        if not is_confirmed and not is_stale:
            differences = self._differences(settings, permissions, fields)
            if differences and request.form.get("back") != "1":
                return self.render(
                    "admin/role_changes.html", row=settings, differences=differences, form_data=request.form
                )
            if not differences:
                flash(_("Nothing has been changed."), "info")
                return redirect(self.row_url(settings))
        if not is_confirmed and request.form.get("back") == "1":
            return self.render("admin/role.html", **self._shown(settings, permissions, fields), form=Form())
        shown = self._shown(settings, permissions, fields)
        return self.answer(
            Form(request.form),
            lambda: change_role(
                settings,
                permissions=permissions,
                fields={key: FieldRule(rule) for key, rule in fields.items()},  # type: ignore[call-arg]
                by=current_user,
            ),
            title=str(settings),
            back=self.row_url(settings),
            template="admin/role.html",
            is_stale=is_stale,
            **shown,
        )

    @expose("/reset/", methods=("GET", "POST"))
    @permission("edit")
    def reset_view(self) -> Any:
        settings = self.get_one(request.values.get("id"))
        if not self.may_edit_row(settings):
            abort(403)
        return self.answer(
            Form(request.form),
            lambda: reset_role(settings, by=current_user),
            title=_("Make the role “%(role)s” what it was built in as?", role=settings),
            back=self.row_url(settings),
            said=_l("The role is as it was built in."),
            warning=_("All changes of its permissions and fields are taken back: %(count)s.", count=_changes(settings)),
            submit=_("Reset"),
        )

    # --- parts ------------------------------------------------------------------------------------------------------

    def _shown(self, settings: RoleSettings, permissions: Any, fields: Any) -> dict[str, Any]:
        rights = rights_of_role(self.admin._views, settings.role, permissions, fields, changes_of_role(settings))
        sections: dict[Any, list[EntityRights]] = {}
        for entity in rights:
            sections.setdefault(entity.section, []).append(entity)
        return {"row": settings, "sections": sections, "history_lines": self.history(settings, limit=10)}

    def _sent(self, settings: RoleSettings) -> tuple[dict[str, bool], dict[str, str]]:
        """The matrix as it was sent: what differs from the built-in table, and the rules of fields on offer."""
        offered = rights_of_role(self.admin._views, settings.role, {}, {})
        shown = {right.permission for entity in offered for right in entity.actions if not right.is_reserved}
        ticked, role = set(request.form.getlist("allow")), settings.role.value
        permissions = {name: held for name, held in settings.permissions.items() if name not in shown} | {
            name: name in ticked for name in shown if (name in ticked) != is_built_in(role, name)
        }
        fields = {
            field.key: rule
            for entity in offered
            for field in entity.fields
            if (rule := request.form.get(f"field.{field.key}", "")) in {item.value for item in field.rules}
        }
        return permissions, fields

    def _differences(
        self, settings: RoleSettings, permissions: dict[str, bool], fields: dict[str, str]
    ) -> list[tuple[Any, Any, Any, Any]]:
        """(entity, what, now, then) of each thing that saving would change."""
        now = rights_of_role(self.admin._views, settings.role, settings.permissions, settings.fields)
        then = rights_of_role(self.admin._views, settings.role, permissions, fields)
        lines: list[tuple[Any, Any, Any, Any]] = []
        for old, new in zip(now, then, strict=True):
            lines += [
                (old.name, was.label, _yes(was.is_allowed), _yes(becomes.is_allowed))
                for was, becomes in zip(old.actions, new.actions, strict=True)
                if was.is_allowed is not becomes.is_allowed
            ]
            lines += [
                (old.name, was.label, _rule(was.rule), _rule(becomes.rule))
                for was, becomes in zip(old.fields, new.fields, strict=True)
                if was.rule is not becomes.rule
            ]
        return lines

    def changes_of(self, entry: AuditEntry, row: Any = None) -> list[FieldChange]:
        """Permissions and fields under the names they have in the matrix."""
        names = {view.entity: view for view in self.admin._views if isinstance(view, KontoraView)}
        lines = []
        for key, (old, new) in entry.changes.items():
            sort, _dot, name = key.partition(".")
            entity, _dot, rest = name.partition(".")
            if sort not in {"permissions", "fields"} or entity not in names:
                continue
            view = names[entity]
            if sort == "permissions":
                label = f"{view.name}: {ACTION_NAMES.get(rest, rest)}"
                lines.append(FieldChange(key, label, _changed(old), _changed(new)))
            else:
                rules = [next((item for item in FieldRule if item.value == rule), None) for rule in (old, new)]
                label = f"{view.name}: {view.column(rest).label}"
                lines.append(FieldChange(key, label, _rule(rules[0]), _rule(rules[1])))
        return lines

    def row_url(self, row: Any) -> str:
        return url_for("role.details_view", id=row.id)


def _changes(settings: RoleSettings) -> int:
    return len(settings.permissions) + len(settings.fields)


def _yes(is_allowed: bool) -> str:
    return _("yes") if is_allowed else _("no")


def _rule(rule: FieldRule | None) -> Any:
    return pgettext("field", "Visible") if rule is None else rule.label


def _changed(value: bool | None) -> str:
    return pgettext("permission", "as built in") if value is None else _yes(value)
