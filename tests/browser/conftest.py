"""The console in a real browser, with the real stack, every part a separate process.

An error of a page fails the test that opened it: an error on the browser's console, an exception
of a script, or a request to another machine.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import grpc
import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Request,
    expect,
    sync_playwright,
)

from credit_service.client.channel import open_channel
from credit_service.clock import Clock
from credit_service.processes.embedded import EmbeddedStack
from credit_service.spreadsheets import samples
from credit_service.storage import migrate
from credit_service.v1 import ingestion_pb2
from credit_service.v1.credit_service_pb2_grpc import CreditServiceStub
from credit_service_client.ingestion import IngestionClient
from credit_service_client.ingestion import Request as IngestionRequest
from tests.tools import tool

ROOT = Path(__file__).parents[2]
AXE_SHA256 = "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c"
_START_SECONDS = 60.0

# A busy machine is slow, but its results are still valid.
expect.set_options(timeout=15_000)


@dataclass(frozen=True, slots=True)
class Place:
    """Addresses of the stack."""

    url: str
    """URL of the console, without a slash at the end."""
    address: str
    """Address of the gRPC server."""
    channel: grpc.Channel
    credit: CreditServiceStub
    clock_file: Path
    samples: samples.Samples
    environment: dict[str, str]


@contextmanager
def process(module: str, environment: dict[str, str], announced: str, log: Path) -> Iterator[str]:
    """Run a module as a program. Once its output matches `announced`, yield the first group."""
    with log.open("wb") as errors:
        started = subprocess.Popen(
            [sys.executable, "-m", module],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    assert started.stdout is not None
    giving_up = threading.Timer(_START_SECONDS, started.kill)
    giving_up.start()
    try:
        for line in started.stdout:
            if match := re.search(announced, line):
                giving_up.cancel()
                yield match.group(1)
                return
        pytest.fail(f"{module} did not start:\n{log.read_text(encoding='utf-8')[-2000:]}")
    finally:
        giving_up.cancel()
        started.terminate()
        try:
            started.wait(20)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()
        started.stdout.close()


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    """Run databases, server, worker and console on free ports, with imported sample workbooks."""
    folder = Path(tempfile.mkdtemp(prefix="credit-service-console-"))
    # As root the databases run as another user, who needs access to this folder.
    folder.chmod(0o711)
    clock_file = folder / "clock"
    clock_file.write_text("0", encoding="ascii")
    with ExitStack() as running:
        running.callback(shutil.rmtree, folder, ignore_errors=True)
        stack = running.enter_context(EmbeddedStack(folder / "data", durable=False))
        migrate.upgrade(stack.database_url.replace("postgresql://", "postgresql+psycopg://", 1))
        environment = {
            **os.environ,
            "DATABASE_URL": stack.database_url,
            "REDIS_URL": stack.redis_url,
            "CREDIT_LISTEN": "127.0.0.1:0",
            "CREDIT_CONSOLE_LISTEN": "127.0.0.1:0",
            "CREDIT_CLOCK_OFFSET_FILE": str(clock_file),
            "CREDIT_LOG_FORMAT": "console",
        }
        start: Callable[[str, str], str] = lambda module, announced: running.enter_context(  # noqa: E731 - closes over `running`
            process(module, environment, announced, folder / f"{module}.log")
        )
        address = start("credit_service.rpc", r"Serving on (\S+)")
        environment["CREDIT_SERVER_ADDRESS"] = address
        running.enter_context(worker(environment, folder / "workers.log"))
        url = start("credit_service.console", r"Console on (http://\S+)/qa/")
        channel = running.enter_context(open_channel(address))
        today = Clock().moment().today
        written = samples.write_samples(
            folder / "samples", customers=40, loans=160, seed=5, today=today
        )
        _import(channel, written)
        yield Place(
            url,
            address,
            channel,
            CreditServiceStub(channel),
            clock_file,
            written,
            environment,
        )


@contextmanager
def worker(environment: dict[str, str], log: Path) -> Iterator[None]:
    """Run a worker. It prints nothing: its tasks wait until it is ready."""
    with log.open("wb") as errors:
        started = subprocess.Popen(
            [sys.executable, "-m", "workers"], cwd=ROOT, env=environment, stderr=errors
        )
    try:
        yield
    finally:
        started.terminate()
        try:
            started.wait(20)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


def _import(channel: grpc.Channel, written: samples.Samples) -> None:
    client = IngestionClient(channel)
    for kind, path in (
        (ingestion_pb2.INGESTION_KIND_CUSTOMERS, written.customer_path),
        (ingestion_pb2.INGESTION_KIND_LOANS, written.loan_path),
    ):
        request = IngestionRequest(uuid4())
        client.upload(path, kind, request)
        ended = client.follow(request.ingestion_id)
        assert ended.state == ingestion_pb2.INGESTION_STATE_SUCCEEDED


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium without network requests of its own."""
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=tool("chromium"),
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-pings"],
        )
        yield opened
        opened.close()


class Tab:
    """A page of the browser, and its errors."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.faults: list[str] = []
        self.expected: list[str] = []
        """Parts of the error messages that the test provokes."""
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.faults.append(f"script: {error}"))
        page.on("request", self._on_request)

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.faults.append(f"console: {message.text} ({message.location.get('url')})")

    def _on_request(self, request: Request) -> None:
        if urlsplit(request.url).hostname != "127.0.0.1":
            self.faults.append(f"a request to another machine: {request.url}")

    def check(self) -> None:
        """Fail on unexpected errors."""
        found = [fault for fault in self.faults if not any(part in fault for part in self.expected)]
        self.faults = []
        assert not found, "\n".join(found)


def new_context(
    browser: Browser, url: str, *, narrow: bool = False, dark: bool = False
) -> BrowserContext:
    """A fresh profile of a desktop or a phone, light or dark."""
    context = browser.new_context(
        base_url=url,
        viewport={"width": 390, "height": 844} if narrow else {"width": 1360, "height": 900},
        color_scheme="dark" if dark else "light",
        reduced_motion="reduce",
        accept_downloads=True,
        locale="en-IN",
    )
    context.set_default_timeout(20_000)
    return context


OpenTab = Callable[..., Tab]


@pytest.fixture
def open_tab(browser: Browser, place: Place) -> Iterator[OpenTab]:
    """Opens tabs of a fresh profile, wide or narrow, light or dark; checks them after the test."""
    tabs: list[Tab] = []
    contexts = []

    def opened(*, narrow: bool = False, dark: bool = False, url: str | None = None) -> Tab:
        context = new_context(browser, url or place.url, narrow=narrow, dark=dark)
        contexts.append(context)
        tabs.append(Tab(context.new_page()))
        return tabs[-1]

    yield opened
    for context in contexts:
        context.close()
    for tab in tabs:
        tab.check()


@pytest.fixture
def page(open_tab: OpenTab) -> Page:
    """One wide, light tab."""
    return open_tab().page


@pytest.fixture(scope="session")
def axe() -> str:
    """The source of axe-core, which finds accessibility problems."""
    path = Path(tool("axe-core")) / "axe.min.js"
    source = path.read_bytes()
    assert hashlib.sha256(source).hexdigest() == AXE_SHA256, "another axe-core than expected"
    return source.decode()
