"""`probe` checks the health of a server."""

from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from credit_service.cli.common import ExitCode, Target, UsageError
from credit_service.cli.connection import opened
from credit_service.cli.output import print_failure

_MAX_SECONDS = 600.0


def probe(target: Target, service: str, timeout_seconds: float, *, live: bool) -> int:
    """Return GOOD if the server answers within the timeout and, unless `live`, is SERVING; else
    print the reason and return REFUSED.

    The call needs no token, so it sends none. Raises UsageError, TlsFileError.
    """
    if not 0 < timeout_seconds <= _MAX_SECONDS:
        raise UsageError(f"--timeout must be above 0 and at most {_MAX_SECONDS:g} seconds")
    request = health_pb2.HealthCheckRequest(service=service)
    with opened(target.without_token()) as channel:
        try:
            response = health_pb2_grpc.HealthStub(channel).Check(request, timeout=timeout_seconds)
        except grpc.RpcError as error:
            print_failure([f"{target.address} is not healthy: {_reason(error)}"])
            return ExitCode.REFUSED
    if not live and response.status != health_pb2.HealthCheckResponse.SERVING:
        status = health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)
        print_failure([f"{target.address} is not ready: {status}"])
        return ExitCode.REFUSED
    return ExitCode.GOOD


def _reason(error: Any) -> str:
    details = " ".join((error.details() or "").split())
    return f"{error.code().name}{': ' if details else ''}{details}"
