from tests.bank import bank, served  # noqa: F401
from tests.schedule.conftest import statements  # noqa: F401
