from tests.bank import bank, served  # noqa: F401
