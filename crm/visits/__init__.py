"""Visits: a client comes, is served, and pays for it."""
