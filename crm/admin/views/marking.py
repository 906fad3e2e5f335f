"""Marks of a lesson: who came, in one list; and the grid of all marks."""

from __future__ import annotations

from crm.admin.base import KontoraView


class LessonMarkingView(KontoraView):
    """Of the view of lessons: the page where a lesson is marked and held."""
