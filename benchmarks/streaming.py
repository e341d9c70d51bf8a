"""A client that streams a file, in a process of its own.

`python -m benchmarks.streaming` serves one order of `benchmarks.load.ordered`.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from benchmarks.load import LoadError, serve_one
from credit_service.client.channel import open_channel
from credit_service.client.rows import open_source
from credit_service_client.ingestion import IngestionClient, Request


@dataclass(frozen=True, slots=True)
class Order:
    """A file with `rows` new loans, for the server at this port of loopback."""

    port: int
    path: str
    rows: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """The time from opening the file until the service reports all of it as stored."""

    seconds: float
    cpu_seconds: float


def run(order: Order) -> Outcome:
    """Stream the file.

    Raises:
        LoadError: not all rows were stored.
    """
    began, cpu_began = time.perf_counter(), time.process_time()
    with open_channel(f"127.0.0.1:{order.port}") as channel:
        response = IngestionClient(channel).stream(open_source(Path(order.path)), Request(uuid4()))
    if response.ingestion.inserted != order.rows:
        raise LoadError(f"not all of {order.rows:,} loans were stored: {response.ingestion}")
    return Outcome(time.perf_counter() - began, time.process_time() - cpu_began)


if __name__ == "__main__":
    # Under its importable name, so that pickled objects can be loaded.
    from benchmarks.streaming import run as _run

    serve_one(_run)
