from tests.gateways.fixtures import local_tbank, local_yookassa  # noqa: F401
