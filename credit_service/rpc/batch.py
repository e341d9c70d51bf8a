"""BatchCheckEligibility: the answers of CheckEligibility to many asks.

A batch is mostly computation, during which its thread holds the interpreter's lock. After each
slice of work it checks that its caller still waits, and pauses: other calls get the lock within
about a slice, instead of the 5 ms after which the interpreter takes it from a thread.
"""

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from credit_service.clock import Moment
from credit_service.domain.errors import OUT_OF_RANGE, REQUIRED, InvalidFieldsError
from credit_service.domain.loans import Ask
from credit_service.queries.credit import (
    CreditQueries,
    CreditSnapshot,
    decide_on,
    unknown_customer,
)
from credit_service.rpc.calls.bounds import MAX_ASKS
from credit_service.rpc.calls.call import Call
from credit_service.rpc.convert import credit
from credit_service.rpc.convert.fields import Violations
from credit_service.rpc.errors import to_status
from credit_service.v1 import credit_service_pb2 as pb

_MAX_RESPONSE_BYTES = 4 * 1024 * 1024 - 1024
"""The limit of messages, less room for what surrounds a message."""
_SLICE_SECONDS = 0.001
_PAUSE_SECONDS = 0.000001

T = TypeVar("T")


def check_many(
    queries: CreditQueries,
    request: pb.BatchCheckEligibilityRequest,
    moment: Moment,
    call: Call,
) -> pb.BatchCheckEligibilityResponse:
    """The response of BatchCheckEligibility.

    Raises:
        InvalidFieldsError: no asks, too many, or too many for the size of their answers.
        DeadlineExceededError: the deadline has passed, or the caller has gone.
    """
    _require_count(len(request.asks))
    asks = [_read(each) for each in _in_slices(request.asks, call)]
    snapshots = queries.snapshots({each[0] for each in asks if isinstance(each, tuple)}, moment)
    response = pb.BatchCheckEligibilityResponse()
    for ask in _in_slices(asks, call):
        _fill(response.results.add(), ask, snapshots, moment, call)
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


def _read(request: pb.CheckEligibilityRequest) -> tuple[int, Ask] | InvalidFieldsError:
    """The customer's id and the ask, or why they are invalid."""
    try:
        return credit.read_check_eligibility(request)
    except InvalidFieldsError as error:
        return error


def _fill(
    result: pb.EligibilityResult,
    asked: tuple[int, Ask] | InvalidFieldsError,
    snapshots: dict[int, CreditSnapshot],
    moment: Moment,
    call: Call,
) -> None:
    """Fill an empty result with the answer."""
    error: Exception
    if isinstance(asked, InvalidFieldsError):
        error = asked
    elif asked[0] not in snapshots:
        error = unknown_customer(asked[0])
    else:
        customer_id, ask = asked
        try:
            decision = decide_on(snapshots[customer_id], ask, moment)
            credit.fill_eligibility(result.eligibility, customer_id, ask, decision, moment)
        except Exception as defect:  # noqa: BLE001 - logged, as if it had ended a call of its own
            error = defect
        else:
            return
    result.error.CopyFrom(to_status(error, call.call_id, call.method))


def _in_slices(items: Iterable[T], call: Call) -> Iterator[T]:
    """The items, with a pause after each slice of work. Raises DeadlineExceededError when no caller
    waits any more."""
    slice_end = time.monotonic() + _SLICE_SECONDS
    for each in items:
        yield each
        if time.monotonic() >= slice_end:
            call.raise_if_cancelled()
            time.sleep(_PAUSE_SECONDS)
            slice_end = time.monotonic() + _SLICE_SECONDS
