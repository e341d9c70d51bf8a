"""The pauses of a batch."""

import pytest

from credit_service.rpc import batch
from credit_service.rpc.calls.call import Call


class _Awaited:
    def raise_if_cancelled(self) -> None:
        """The caller waits."""


@pytest.mark.parametrize(("others_run", "pauses"), [(False, 0), (True, 4)])
def test_a_batch_pauses_every_five_asks_while_other_calls_run(
    others_run: bool, pauses: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("credit_service.rpc.batch.time.sleep", slept.append)
    call: Call = _Awaited()  # type: ignore[assignment]
    assert list(batch._at_leisure(range(20), call, lambda: others_run)) == list(range(20))
    assert len(slept) == pauses
