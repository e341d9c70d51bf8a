"""The documented errors: the reasons of each method, and the status of each reason."""

import re
from functools import cache
from pathlib import Path

from google.protobuf.descriptor import MethodDescriptor

from credit_service.rpc.server import SERVICES

_PROTOS = Path(__file__).parents[2] / "protos" / "credit_service" / "v1"

METHODS: dict[str, MethodDescriptor] = {
    method.name: method for service in SERVICES for method in service.methods
}
"""Every method of the services, by its name."""


def path_of(method: MethodDescriptor) -> str:
    """The method's path in gRPC."""
    return f"/{method.containing_service.full_name}/{method.name}"


@cache
def status_of_reason() -> dict[str, str]:
    """The status of each reason, from the comments of ErrorReason."""
    text = (_PROTOS / "error_reason.proto").read_text(encoding="utf-8")
    found: dict[str, str] = {}
    for comment, name in re.findall(r"((?:  //[^\n]*\n)+)  ERROR_REASON_(\w+) = ", text):
        status = re.match(r"\s*// ([A-Z_]+)[,.]", comment)
        if status is not None:
            found[name] = status[1]
    return found


_OF_ANY_METHOD = frozenset(
    {"UNAUTHENTICATED", "PERMISSION_DENIED", "OVERLOADED", "RATE_LIMITED", "DATABASE_UNAVAILABLE"}
    | {"SHUTTING_DOWN", "DEADLINE_EXCEEDED", "METHOD_NOT_IMPLEMENTED"}
)
"""Reasons documented for all methods, except INTERNAL, which bad input must never cause."""


@cache
def reasons_of(method: str) -> frozenset[str]:
    """The reasons documented for a method, including those of all methods."""
    for file in (
        *("credit_service", "ingestion_service"),
        *("operations_service", "scorecard_service"),
    ):
        text = (_PROTOS / f"{file}.proto").read_text(encoding="utf-8")
        match = re.search(rf"((?:  //[^\n]*\n)+)  rpc {method}\(", text)
        if match is not None:
            named = re.findall(r"\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\b", match[1])
            return _OF_ANY_METHOD | (frozenset(named) & status_of_reason().keys())
    raise LookupError(f"no method {method} in {_PROTOS.name}")
