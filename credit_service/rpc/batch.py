"""BatchCheckEligibility: the answers of CheckEligibility to many asks.

A batch is mostly computation, during which its thread holds the interpreter's lock. While it runs,
the interpreter hands the lock to a waiting thread after 0.5 ms instead of 5 ms. While other calls
run, the batch also pauses every few asks: it uses the time that they leave.
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from credit_service.clock import Moment
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
_ASKS_BETWEEN_CHECKS = 20
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
        # Nothing else is kept of an ask: the garbage collector would visit it several times.
        ids = {each.customer_id for each in request.asks}
        snapshots = queries.snapshots({each for each in ids if each > 0}, moment)
        for ask in _at_leisure(request.asks, call, others_run):
            _answer(ask, response.results.add(), snapshots, moment, call)
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
    request: pb.CheckEligibilityRequest,
    result: pb.EligibilityResult,
    snapshots: CreditSnapshots,
    moment: Moment,
    call: Call,
) -> None:
    """Fill an empty result with the answer to an ask."""
    try:
        customer_id, ask, charges = decisions.read_check_eligibility(request)
        decision = snapshots.decide(customer_id, ask)
        decisions.fill_eligibility(result.eligibility, customer_id, ask, charges, decision, moment)
    except Exception as error:  # noqa: BLE001 - a defect is logged, as if the ask were a call
        result.error.CopyFrom(to_status(error, call.call_id, call.method))


def _at_leisure(items: Sequence[T], call: Call, others_run: Callable[[], bool]) -> Iterator[T]:
    """The items, with pauses while other calls run. Raises DeadlineExceededError once no caller
    waits for them any more."""
    for number, item in enumerate(items):
        if number % _ASKS_BETWEEN_CHECKS == 0:
            call.raise_if_cancelled()
        if number % _ASKS_BETWEEN_PAUSES == 0 and others_run():
            time.sleep(_PAUSE_SECONDS)
        yield item


@contextmanager
def _short_switch_interval() -> Iterator[None]:
    """Let other threads run soon. The interval is the process's, so one batch at a time is served:
    see `bounds.BATCH_THREADS`."""
    sys.setswitchinterval(_SWITCH_SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(_USUAL_SWITCH_SECONDS)
