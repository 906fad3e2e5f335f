"""WSGI and `flask` entry."""

from crm import create_app

app = create_app()
