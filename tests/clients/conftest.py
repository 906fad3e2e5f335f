from tests.bank import bank  # noqa: F401
