"""One file per domain; a view is a declaration over admin/base.py."""
