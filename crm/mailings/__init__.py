"""Mailing rules that issue bills and write letters; messages as outbox rows delivered at most once."""
