"""Servers for comparison: `python -m benchmarks.yardsticks empty|read|bare`.

    empty  the service's server with its interceptors and a handler that does nothing
    read   the same with a handler that reads one row by its primary key with psycopg
    bare   grpc's server without the interceptors, with a handler that does nothing

The first two implement CheckEligibility, the last one any method.
"""

import os
import sys
import threading
from concurrent import futures
from typing import TYPE_CHECKING, Any

import grpc
import psycopg

from credit_service.rpc import __main__ as serving
from credit_service.rpc import server
from credit_service.rpc.credit import CreditServicer
from credit_service.v1 import credit_service_pb2 as pb

_READ = "SELECT * FROM customers WHERE customer_id = %s"


class EmptyServicer(CreditServicer):
    """Does nothing."""

    def CheckEligibility(  # noqa: N802 - the contract's name
        self,
        request: pb.CheckEligibilityRequest,  # noqa: ARG002 - unused
        context: grpc.ServicerContext,  # noqa: ARG002
    ) -> pb.CheckEligibilityResponse:
        """An empty response."""
        return pb.CheckEligibilityResponse()


class ReadServicer(CreditServicer):
    """Reads a row and discards it, with one connection per thread."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._local = threading.local()

    def CheckEligibility(  # noqa: N802 - the contract's name
        self,
        request: pb.CheckEligibilityRequest,
        context: grpc.ServicerContext,  # noqa: ARG002 - required by grpc
    ) -> pb.CheckEligibilityResponse:
        """An empty response after reading the customer's row."""
        cursor = getattr(self._local, "cursor", None)
        if cursor is None:
            connection = psycopg.connect(
                os.environ["DATABASE_URL"], autocommit=True, prepare_threshold=2
            )
            cursor = self._local.cursor = connection.cursor()
        if cursor.execute(_READ, (request.customer_id,)).fetchone() is None:
            raise LookupError("no such customer")
        return pb.CheckEligibilityResponse()


if TYPE_CHECKING:
    _GenericHandler = grpc.GenericRpcHandler[Any, Any]
else:
    # Generic for the type checker only.
    _GenericHandler = grpc.GenericRpcHandler


class _AnyMethod(_GenericHandler):
    def service(self, _details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[Any, Any]":
        return grpc.unary_unary_rpc_method_handler(lambda _request, _context: b"")


def _serve_bare() -> int:
    threads = futures.ThreadPoolExecutor(int(os.environ.get("CREDIT_THREADS", "16")))
    bare = grpc.server(threads, handlers=[_AnyMethod()])
    port = bare.add_insecure_port("127.0.0.1:0")
    bare.start()
    print(f"Serving on 127.0.0.1:{port}", flush=True)
    bare.wait_for_termination()
    return 0


def main() -> int:
    """Serve the yardstick of the command line like `python -m credit_service.rpc`."""
    which = sys.argv.pop()
    if which == "bare":
        return _serve_bare()
    servicers: dict[str, type[CreditServicer]] = {"empty": EmptyServicer, "read": ReadServicer}
    # Replaces the real servicer.
    setattr(server, "CreditServicer", servicers[which])  # noqa: B010 - the module does not export it
    return serving.main()


if __name__ == "__main__":
    sys.exit(main())
