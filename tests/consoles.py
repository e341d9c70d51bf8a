"""The console in a thread of this process, and a client that keeps cookies."""

import contextlib
import http.client
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode, urlsplit

from credit_service.console import app
from credit_service.settings import Settings


@contextlib.contextmanager
def console(address: str, **settings: Any) -> Iterator[str]:
    """Run a console for the server at `address`; yields its host and port."""
    chosen = Settings(server_address=address, console_listen="127.0.0.1:0", **settings)
    stop, announced = threading.Event(), threading.Event()
    urls: list[str] = []

    def announce(url: str) -> None:
        urls.append(url)
        announced.set()

    thread = threading.Thread(
        target=app.run, args=(chosen,), kwargs={"announce": announce, "stop": stop}
    )
    thread.start()
    try:
        assert announced.wait(10)
        yield urlsplit(urls[0]).netloc
    finally:
        stop.set()
        thread.join(10)
        assert not thread.is_alive()


@dataclass
class Answer:
    """A response of the console."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body on one line."""
        return " ".join(self.body.decode().split())


@dataclass
class Visitor:
    """A minimal browser without scripts."""

    place: str
    cookies: dict[str, str] = field(default_factory=dict)
    timeout_seconds: float = 10.0

    def ask(
        self, path: str, body: bytes | None = None, content_type: str = "", **headers: str
    ) -> Answer:
        """Request a page, or send a body to it."""
        if self.cookies:
            headers["cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        if content_type:
            headers["content-type"] = content_type
        connection = http.client.HTTPConnection(self.place, timeout=self.timeout_seconds)
        try:
            connection.request("GET" if body is None else "POST", path, body, headers)
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        for name, value in response.getheaders():
            if name.lower() == "set-cookie":
                cookie, _, _ = value.partition(";")
                key, _, found = cookie.partition("=")
                self.cookies[key] = found.strip('"')
        lower = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, lower, content)

    def send(self, page: str, to: str = "", **fields: str) -> Answer:
        """Send the form of a page."""
        body = urlencode({"csrf_token": self.csrf_token(page), **fields}).encode()
        return self.ask(to or page, body, "application/x-www-form-urlencoded")

    def csrf_token(self, page: str) -> str:
        """The token in the forms of a page."""
        found = re.search(r'name="csrf_token" value="([^"]*)"', self.ask(page).text)
        assert found, page
        return found[1]
