"""Planning lessons: one or a series, for a client, for a group, or for whoever enrols; changing and canceling them."""

from __future__ import annotations

from crm.admin.base import KontoraView


class LessonPlanningView(KontoraView):
    """Of the view of lessons: the forms that plan, change and cancel them."""
