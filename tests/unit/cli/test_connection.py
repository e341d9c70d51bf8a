"""Connections of commands: closing them ends, also after Ctrl-C in the middle of gRPC's code."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from credit_service.cli import connection
from credit_service.cli.common import Target


class Silent(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """Answers no call before the test ends."""

    def __init__(self) -> None:
        self.ended = threading.Event()

    def service(self, _details: grpc.HandlerCallDetails) -> Any:
        def answer(_request: bytes, _context: grpc.ServicerContext) -> bytes:
            self.ended.wait(30)
            return b""

        return grpc.unary_unary_rpc_method_handler(answer)


@pytest.mark.timeout(20)
def test_closing_does_not_wait_for_a_lock_that_ctrl_c_left_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "_CLOSE_SECONDS", 0.1)
    silent = Silent()
    server = grpc.server(ThreadPoolExecutor(2), handlers=[silent])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with connection.opened(Target(address=f"127.0.0.1:{port}")) as channel:
            method: Any = channel.unary_unary("/any/Any", bytes, bytes)
            calls = [method.future(b"") for _ in range(2)]
            assert not any(call.done() for call in calls)
            for call in calls:
                call._state.condition.acquire()
        for call in calls:
            call._state.condition.release()
    finally:
        silent.ended.set()
        server.stop(None)
