"""BatchCheckEligibility: the answers of CheckEligibility to many asks.

A batch is mostly computation, during which its thread holds the interpreter's lock. While it runs,
the interpreter hands the lock to a waiting thread after 0.5 ms instead of 5 ms. While other calls
run, the batch also pauses every few asks: it uses the time that they leave.
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from credit_service.clock import Moment
from credit_service.domain.charges import Charge
from credit_service.domain.eligibility import Ask, Decision
from credit_service.domain.errors import OUT_OF_RANGE, REQUIRED, InvalidFieldsError
from credit_service.queries.credit import CreditQueries, CreditSnapshots
from credit_service.rpc.calls.bounds import MAX_ASKS
from credit_service.rpc.calls.call import Call
from credit_service.rpc.convert import decisions
from credit_service.rpc.convert.fields import Violations
from credit_service.rpc.errors import to_status
from credit_service.v1 import credit_service_pb2 as pb

_MAX_RESPONSE_BYTES = 4 * 1024 * 1024 - 1024
"""The limit of messages, less room for what surrounds a message."""
_USUAL_SWITCH_SECONDS = sys.getswitchinterval()
_SWITCH_SECONDS = 0.0005
_ASKS_AT_ONCE = 50
"""Larger groups are no faster."""
_ASKS_BETWEEN_PAUSES = 5
_PAUSE_SECONDS = 0.0005

T = TypeVar("T")


def check_many(
    queries: CreditQueries,
    request: pb.BatchCheckEligibilityRequest,
    moment: Moment,
    call: Call,
    others_run: Callable[[], bool],
) -> pb.BatchCheckEligibilityResponse:
    """The response of BatchCheckEligibility. `others_run` says whether other calls run now.

    Raises:
        InvalidFieldsError: no asks, too many, or too many for the size of their answers.
        DeadlineExceededError: the deadline has passed, or the caller has gone.
    """
    _require_count(len(request.asks))
    response = pb.BatchCheckEligibilityResponse()
    with _short_switch_interval():
        ids = {each.customer_id for each in request.asks}
        snapshots = queries.snapshots({each for each in ids if each > 0}, moment)
        for asks in _at_leisure(request.asks, call, others_run):
            _answer(asks, response.results, snapshots, moment, call)
    if response.ByteSize() > _MAX_RESPONSE_BYTES:
        raise _rejected(OUT_OF_RANGE, "must be fewer: their answers exceed 4 MiB.")
    return response


def _require_count(count: int) -> None:
    if not count:
        raise _rejected(REQUIRED, f"is required: 1 to {MAX_ASKS:,} asks.")
    if count > MAX_ASKS:
        raise _rejected(OUT_OF_RANGE, f"must have at most {MAX_ASKS:,} asks, found {count:,}.")


def _rejected(reason: str, sentence: str) -> InvalidFieldsError:
    violations = Violations()
    violations.add("asks", reason, sentence)
    return InvalidFieldsError(violations.found)


def _answer(
    requests: Sequence[pb.CheckEligibilityRequest],
    results: Any,
    snapshots: CreditSnapshots,
    moment: Moment,
    call: Call,
) -> None:
    """Add the answers to these asks to the results.

    Each step is done for all asks before the next step, which takes a fifth less time than one ask
    after the other: a step's code and data stay in the processor's caches.
    """
    read = [_attempt(decisions.read_check_eligibility, each) for each in requests]
    decided = [
        each if isinstance(each, Exception) else _attempt(_decide, snapshots, *each)
        for each in read
    ]
    for found in decided:
        result = results.add()
        error = (
            found
            if isinstance(found, Exception)
            else _attempt(decisions.fill_eligibility, result.eligibility, *found, moment)
        )
        if error is not None:
            # A defect is logged, as if the ask were a call.
            result.error.CopyFrom(to_status(error, call.call_id, call.method))


def _decide(
    snapshots: CreditSnapshots, customer_id: int, ask: Ask, charges: tuple[Charge, ...]
) -> tuple[int, Ask, tuple[Charge, ...], Decision]:
    return customer_id, ask, charges, snapshots.decide(customer_id, ask)


def _attempt(step: Callable[..., T], *values: Any) -> T | Exception:
    """What the step returns, or the exception that it raises."""
    try:
        return step(*values)
    except Exception as error:  # noqa: BLE001 - it is the answer to one ask
        return error


def _at_leisure(
    items: Sequence[T], call: Call, others_run: Callable[[], bool]
) -> Iterator[Sequence[T]]:
    """The items in groups; in small ones, each after a pause, while other calls run. Raises
    DeadlineExceededError once no caller waits for them any more."""
    start = 0
    while start < len(items):
        call.raise_if_cancelled()
        size = _ASKS_AT_ONCE
        if others_run():
            time.sleep(_PAUSE_SECONDS)
            size = _ASKS_BETWEEN_PAUSES
        yield items[start : start + size]
        start += size


@contextmanager
def _short_switch_interval() -> Iterator[None]:
    """Let other threads run soon. The interval is the process's, so one batch at a time is served:
    see `bounds.BATCH_THREADS`."""
    sys.setswitchinterval(_SWITCH_SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(_USUAL_SWITCH_SECONDS)
