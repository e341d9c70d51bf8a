"""A worker's steps are retried while other calls hold their customers."""

import pytest

from credit_service.domain.errors import RetryLaterError
from credit_service.ingestion import batches


class _Step:
    """Meets a lock the first `locked` times."""

    def __init__(self, locked: int) -> None:
        self.locked = locked
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self.locked:
            raise RetryLaterError("REQUEST_IN_PROGRESS", "Locked.", retry_after_seconds=0.0)
        return "stored"


@pytest.mark.parametrize("locked", [0, 1, batches._MAX_RETRIES])
def test_a_step_is_retried_until_its_customers_are_free(locked: int) -> None:
    step = _Step(locked)
    assert batches.retry_while_locked(step) == "stored"
    assert step.calls == locked + 1


def test_retries_are_bounded() -> None:
    step = _Step(1_000)
    with pytest.raises(RetryLaterError):
        batches.retry_while_locked(step)
    assert step.calls == batches._MAX_RETRIES + 1
