"""Checks that every answer must pass."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from credit_service.rpc.errors import STATUS_BY_NUMBER, STATUS_DETAILS_KEY
from credit_service.v1 import ingestion_pb2
from tests.fuzz.contract import reasons_of, status_of_reason

_LEAKS = re.compile(
    r"Traceback|psycopg|sqlalchemy|SELECT |INSERT |site-packages|\.py\b|0x[0-9a-f]{8}"
)
_NEVER = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}


@dataclass(frozen=True, slots=True)
class Answer:
    """The end of a call: its responses, or its error."""

    responses: tuple[Message, ...]
    error: Any = None
    given_up: bool = False
    """The caller cancelled a stream that would stay open."""

    @property
    def code(self) -> grpc.StatusCode:
        """The status; OK for a cancelled open stream."""
        if self.error is None or self.given_up:
            return grpc.StatusCode.OK
        code: grpc.StatusCode = self.error.code()
        return code

    @property
    def reason(self) -> str:
        """The reason in ErrorInfo; empty if there is none."""
        status = None if self.error is None else _status_of(self.error)
        infos = [] if status is None else _infos(status)
        return infos[0].reason if infos else ""


def faults(method: str, answer: Answer, *, oversized: bool = False) -> list[str]:
    """The error in an answer; empty if it conforms to the contract.

    `oversized` marks a call beyond the limits of message or metadata, which the library rejects
    without details before it reaches the service.
    """
    if answer.code is grpc.StatusCode.OK:
        return [
            fault
            for response in answer.responses
            for fault in (*unaccounted_in(response), *_faults_of_batch(response))
        ]
    if answer.code in _NEVER:
        return [f"{answer.code.name}: {answer.error.details()}"]
    if oversized and answer.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return []
    status = _status_of(answer.error)
    if status is None:
        return [f"{answer.code.name} without details: {answer.error.details()}"]
    return list(_faults_of_status(method, answer.code, status))


def _status_of(error: Any) -> status_pb2.Status | None:
    """The details of a status. grpc_status raises ValueError if the caller's deadline passed while
    the status arrived, because the message is then grpc's own."""
    for key, value in error.trailing_metadata() or ():
        if key == STATUS_DETAILS_KEY:
            return status_pb2.Status.FromString(value)
    return None


def _faults_of_status(
    method: str, code: grpc.StatusCode, status: status_pb2.Status
) -> Iterator[str]:
    infos = _infos(status)
    if len(infos) != 1 or infos[0].domain != "credit_service":
        yield f"{code.name} with {len(infos)} ErrorInfo"
        return
    reason = infos[0].reason
    documented = status_of_reason().get(reason)
    if documented != code.name:
        yield f"{reason} has status {code.name}, documented is {documented}"
    if reason not in reasons_of(method):
        yield f"{reason} is not documented at {method}"
    if _LEAKS.search(status.message):
        yield f"the message reveals internals: {status.message}"
    if reason in ("INVALID_FIELD", "PAGE_TOKEN_INVALID") and "fields" in infos[0].metadata:
        named = {each.field for each in _details(status, error_details_pb2.BadRequest)}
        if not named:
            yield f"{reason} names no field"


def _infos(status: status_pb2.Status) -> list[Any]:
    infos = []
    for packed in status.details:
        if packed.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo()
            packed.Unpack(info)
            infos.append(info)
    return infos


def _details(status: status_pb2.Status, kind: Any) -> list[Any]:
    for packed in status.details:
        if packed.Is(kind.DESCRIPTOR):
            message = kind()
            packed.Unpack(message)
            return list(message.field_violations)
    return []


def errors_in(response: Message) -> list[status_pb2.Status]:
    """The errors of single asks in the response to a batch."""
    if response.DESCRIPTOR.name != "BatchCheckEligibilityResponse":
        return []
    results: Any = getattr(response, "results", ())
    return [each.error for each in results if each.HasField("error")]


def _faults_of_batch(response: Message) -> Iterator[str]:
    """Errors in the answers to single asks: they must be those of CheckEligibility."""
    for error in errors_in(response):
        code = STATUS_BY_NUMBER[error.code]
        if code in _NEVER:
            yield f"{code.name} in a batch: {error.message}"
        yield from _faults_of_status("CheckEligibility", code, error)


def unaccounted_in(response: Message) -> list[str]:
    """Errors in the counts of the ingestions in a response."""
    return [fault for each in ingestions_in(response) for fault in unaccounted(each)]


def unaccounted(ingestion: ingestion_pb2.Ingestion) -> list[str]:
    """Whether the outcomes of an ingestion's rows add up to the rows read."""
    outcomes = (
        *(ingestion.inserted, ingestion.updated, ingestion.unchanged),
        *(ingestion.skipped, ingestion.rejected),
    )
    if ingestion.rows_read == sum(outcomes):
        return []
    return [f"{ingestion.rows_read} rows read, outcomes {outcomes}"]


def ingestions_in(response: Message) -> list[ingestion_pb2.Ingestion]:
    """The ingestions in a response."""
    one = getattr(response, "ingestion", None)
    many = list(getattr(response, "ingestions", ()))
    return many if one is None else [one, *many]
