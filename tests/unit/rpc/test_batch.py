"""The groups and pauses of a batch, and the errors of single asks."""

from datetime import timedelta
from pkgutil import resolve_name
from typing import Any

import pytest
from google.type.decimal_pb2 import Decimal
from google.type.money_pb2 import Money

from credit_service.clock import Clock
from credit_service.domain.positions import CreditPosition
from credit_service.domain.scorecard import STANDARD
from credit_service.queries.credit import CreditSnapshots
from credit_service.rpc import batch
from credit_service.v1 import credit_service_pb2 as pb

MOMENT = Clock().moment()


class _Awaited:
    call_id = "test"
    method = "/credit_service.v1.CreditService/BatchCheckEligibility"

    def raise_if_cancelled(self) -> None:
        """The caller waits."""


CALL: Any = _Awaited()


class _Queries:
    def snapshots(self, customer_ids: set[int], moment: Any) -> CreditSnapshots:
        until = moment.today + timedelta(days=1)
        found = {
            each: CreditPosition(
                each, 1, 10**9, 10**10, 0, 0, 2, 10**8, 12, 12, 1, moment.today, until
            )
            for each in customer_ids
        }
        return CreditSnapshots(found, STANDARD, moment.today)


QUERIES: Any = _Queries()


def asks(count: int) -> pb.BatchCheckEligibilityRequest:
    return pb.BatchCheckEligibilityRequest(
        asks=[
            pb.CheckEligibilityRequest(
                customer_id=number,
                loan_amount=Money(currency_code="INR", units=1_00_000),
                interest_rate=Decimal(value="12.5"),
                tenure_months=24,
            )
            for number in range(1, count + 1)
        ]
    )


@pytest.mark.parametrize(
    ("others_run", "sizes", "pauses"), [(False, [50, 50, 20], 0), (True, [5] * 24, 24)]
)
def test_a_batch_pauses_every_five_asks_while_other_calls_run(
    others_run: bool, sizes: list[int], pauses: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("credit_service.rpc.batch.time.sleep", slept.append)
    groups = list(batch._at_leisure(range(120), CALL, lambda: others_run))
    assert [each for group in groups for each in group] == list(range(120))
    assert [len(group) for group in groups] == sizes
    assert len(slept) == pauses


@pytest.mark.parametrize(
    "step",
    [
        "credit_service.rpc.convert.decisions.read_check_eligibility",
        "credit_service.queries.credit.CreditSnapshots.decide",
        "credit_service.rpc.convert.decisions.fill_eligibility",
    ],
)
def test_a_defect_is_the_error_of_one_ask(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = batch.check_many(QUERIES, asks(3), MOMENT, CALL, lambda: False)
    assert all(each.eligibility.approved for each in expected.results)
    original = resolve_name(step)
    calls = iter(range(3))

    def fail_once(*given: Any) -> Any:
        if next(calls) == 1:
            raise RuntimeError("a defect")
        return original(*given)

    monkeypatch.setattr(step, fail_once)
    found = batch.check_many(QUERIES, asks(3), MOMENT, CALL, lambda: False).results
    assert found[1].WhichOneof("result") == "error"
    assert found[1].error.code == 13
    assert [found[0], found[2]] == [expected.results[0], expected.results[2]]
