"""Whatever stands in an address, the answer is a page, not an error of ours."""

from __future__ import annotations

import pytest

from tests.factories import make_bill, make_client


@pytest.mark.parametrize("number", ["9" * 20, "9" * 5000, "-1", "0", "abc", "\x00"])
def test_a_payment_that_cannot_be(network, web, number):
    bill = make_bill(make_client(network.lesnoy))
    answer = web().get(f"/pay/{bill.token}", query_string={"payment": number})
    assert answer.status_code == 200


@pytest.mark.parametrize("path", ["/pay/a%00b", "/pay/%00", "/demo-bank/a%00b", "/webhooks/a%00b"])
def test_a_nul_in_the_path(network, web, bank, path):
    assert web().get(path).status_code in {404, 405}
    assert web().post(path).status_code == 404


@pytest.mark.parametrize("branch_id", ["9" * 5000, "\x00", "²", "-1", "1.0"])
def test_a_branch_that_cannot_be(network, web, branch_id):
    assert web(network.owner).post("/switch", data={"branch_id": branch_id}).status_code == 404
