"""Command line and console with a server that requires TLS, a client certificate and a token."""

import http.client
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pytest
import trustme
from pydantic import SecretStr

from credit_service.cli import connection
from credit_service.cli.app import run
from credit_service.console import app
from credit_service.rpc.server import CreditServer
from credit_service.settings import Settings
from credit_service.storage.database import Database
from tests.system.up import environment, up

GOOD, REFUSED, USAGE, OUT_OF_REACH = 0, 1, 2, 3
CUSTOMERS = "customer_id,first_name,last_name,age,monthly_salary,phone_number\n" + "".join(
    f"{number},Asha,Rao,30,50000,98765432{number:02}\n" for number in range(1, 4)
)


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    for name, issued in (
        ("server", authority.issue_cert("127.0.0.1")),
        ("client", authority.issue_cert("teller.example")),
    ):
        issued.private_key_pem.write_to_path(tmp_path / f"{name}.key")
        issued.cert_chain_pems[0].write_to_path(tmp_path / f"{name}.pem")
    assert run(["token", "key", str(tmp_path)]) == GOOD
    return Settings(
        database_url=SecretStr(database_url),
        redis_url=None,
        listen="127.0.0.1:0",
        threads=4,
        tls_certificate=tmp_path / "server.pem",
        tls_private_key=tmp_path / "server.key",
        tls_client_ca=tmp_path / "ca.pem",
        token_keys=tmp_path / "jwks.json",
        token_issuer="credit-service-dev",
    )


@pytest.fixture
def token(tmp_path: Path, settings: Settings, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert run(["token", f"--key={tmp_path / 'signing-key.private.jwk'}"]) == GOOD
    return capsys.readouterr().out.strip()


@pytest.fixture
def address(
    settings: Settings,
    database: Database,
    token: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[str]:
    """The address of a server; the environment has valid credentials for it."""
    for name, value in {
        "CREDIT_SERVER_CA": str(tmp_path / "ca.pem"),
        "CREDIT_CLIENT_CERTIFICATE": str(tmp_path / "client.pem"),
        "CREDIT_CLIENT_PRIVATE_KEY": str(tmp_path / "client.key"),
        "CREDIT_TOKEN": token,
    }.items():
        monkeypatch.setenv(name, value)
    server = CreditServer(settings, database)
    server.start()
    monkeypatch.setenv("CREDIT_ADDRESS", str(server.address))
    yield str(server.address)
    server.stop(grace_seconds=2)


def _only_error(capsys: pytest.CaptureFixture[str]) -> str:
    """The only error line of the command, without the logs of the server in this process."""
    lines = capsys.readouterr().err.splitlines()
    (line,) = [each for each in lines if not re.search(r"\[(?:info|warning) +\]", each)]
    return line


def test_commands_use_tls_and_the_token(
    address: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = tmp_path / "customers.csv"
    rows.write_text(CUSTOMERS)
    assert run(["ingest", str(rows)]) == GOOD
    assert run(["call", "ListCustomers", "{}"]) == GOOD
    assert capsys.readouterr().out.count("Asha") == 3
    assert run(["events", "--after=0", "--no-follow"]) == GOOD
    monkeypatch.delenv("CREDIT_TOKEN")
    assert run(["call", "ListCustomers", "{}"]) == REFUSED
    assert "UNAUTHENTICATED" in capsys.readouterr().err


def test_a_profile_keeps_address_and_credentials(
    address: str,
    token: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("CREDIT_TOKEN")
    assert run(["login", "mine"]) == REFUSED
    assert "UNAUTHENTICATED" in capsys.readouterr().err
    assert not (tmp_path / "config").exists()
    (tmp_path / "token").write_text(token)
    monkeypatch.chdir(tmp_path)
    assert run(["login", "mine", "--token-file=token"]) == GOOD
    printed = capsys.readouterr()
    assert f"Profile mine is saved, and is the default: {address}\n" in printed.out
    assert "subject  developer\n" in printed.out
    assert "scopes   credit.read, credit.write, " in printed.out
    assert token not in printed.out + printed.err
    assert "CREDIT_ADDRESS is set" in printed.err
    for name in ("ADDRESS", "SERVER_CA", "CLIENT_CERTIFICATE", "CLIENT_PRIVATE_KEY"):
        monkeypatch.delenv(f"CREDIT_{name}")
    monkeypatch.chdir("/")
    assert run(["call", "ListCustomers", "{}"]) == GOOD
    assert run(["login", "mine"]) == OUT_OF_REACH  # at the default address, not that of the profile


@pytest.mark.parametrize("lacking", ["CREDIT_SERVER_CA", "CREDIT_CLIENT_CERTIFICATE"])
def test_without_authority_or_certificate_the_service_is_unavailable(
    address: str, lacking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(lacking)
    monkeypatch.delenv("CREDIT_CLIENT_PRIVATE_KEY")
    assert run(["call", "ListCustomers", "{}"]) == OUT_OF_REACH


def test_an_authority_is_given_by_an_option(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CREDIT_SERVER_CA")
    assert run(["call", "ListCustomers", f"--ca={tmp_path / 'ca.pem'}"]) == GOOD


def test_a_failed_tls_connection_states_the_cause(
    address: str,
    database: Database,
    settings: Settings,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "CONNECT_TIMEOUT_SECONDS", 1.0)

    def failure(*options: str) -> str:
        capsys.readouterr()
        assert run(["call", "ListCustomers", *options]) == OUT_OF_REACH
        return _only_error(capsys)

    stranger = tmp_path / "stranger.pem"
    trustme.CA().cert_pem.write_to_path(stranger)
    line = failure(f"--ca={stranger}")
    assert "presents an invalid certificate" in line
    assert f"{stranger} must contain the authority" in line
    port = address.rpartition(":")[2]
    line = failure(f"--address=localhost:{port}")
    assert "mismatch" in line
    assert "use a host name that is in the certificate" in line
    plain = CreditServer(
        Settings(database_url=settings.database_url, redis_url=None, listen="127.0.0.1:0"), database
    )
    plain.start()
    try:
        assert "does not use TLS" in failure(f"--address={plain.address}")
    finally:
        plain.stop(grace_seconds=2)
    monkeypatch.delenv("CREDIT_CLIENT_CERTIFICATE")
    monkeypatch.delenv("CREDIT_CLIENT_PRIVATE_KEY")
    assert "requires a client certificate" in failure()
    monkeypatch.delenv("CREDIT_SERVER_CA")
    assert "requires TLS: set --ca" in failure()
    assert "No credit service answers" in failure("--address=127.0.0.1:1")


@pytest.mark.parametrize(
    ("variable", "content"),
    [
        ("CREDIT_CLIENT_CERTIFICATE", None),
        ("CREDIT_CLIENT_PRIVATE_KEY", None),
        ("CREDIT_CLIENT_PRIVATE_KEY", "no key"),
        ("CREDIT_SERVER_CA", None),
        ("CREDIT_SERVER_CA", "no certificate"),
    ],
)
def test_an_unusable_file_is_named(
    address: str,
    variable: str,
    content: str | None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "wrong"
    if content is not None:
        path.write_text(content)
    monkeypatch.setenv(variable, str(path))
    capsys.readouterr()
    assert run(["call", "ListCustomers"]) == USAGE
    line = _only_error(capsys)
    assert str(path) in line
    assert variable in line


def test_up_prints_working_commands(settings: Settings, token: str, tmp_path: Path) -> None:
    """With TLS and tokens, each command of the banner runs unchanged."""
    bin_folder = Path(sys.executable).parent
    with up(
        CREDIT_TOKEN_ISSUER="credit-service-dev",
        CREDIT_TLS_CERTIFICATE=str(tmp_path / "server.pem"),
        CREDIT_TLS_PRIVATE_KEY=str(tmp_path / "server.key"),
        CREDIT_TOKEN_KEYS=str(tmp_path / "jwks.json"),
        CREDIT_SERVER_CA=str(tmp_path / "ca.pem"),
    ) as running:
        lines = [line.strip() for line in running.log.splitlines() if line.startswith("  ")]
        calls = [line for line in lines if line.startswith(("buf curl", "credit-service "))]
        assert len(calls) == 4
        (grpcurl,) = [line for line in lines if line.startswith("grpcurl")]
        assert f'-cacert {tmp_path / "ca.pem"} -H "authorization: Bearer $CREDIT_TOKEN"' in grpcurl
        assert "-plaintext" not in running.log
        for line in sorted(calls, key=lambda each: each.startswith("buf")):
            done = subprocess.run(
                ["/bin/sh", "-c", line],
                env=environment(CREDIT_TOKEN=token, PATH=f"{bin_folder}:{os.environ['PATH']}"),
                cwd=tmp_path,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, (line, done)


def test_the_console_uses_tls_and_the_users_token(address: str, token: str, tmp_path: Path) -> None:
    rows = tmp_path / "customers.csv"
    rows.write_text(CUSTOMERS)
    assert run(["ingest", str(rows)]) == GOOD
    urls: list[str] = []
    listening, stop = threading.Event(), threading.Event()

    def announce(url: str) -> None:
        urls.append(url)
        listening.set()

    thread = threading.Thread(
        target=app.run,
        args=(Settings(server_address=address, console_listen="127.0.0.1:0"),),
        kwargs={"announce": announce, "stop": stop},
    )
    thread.start()
    try:
        assert listening.wait(30)
        browser = Browser(urls[0])
        assert 'name="token"' in browser.get("/qa/login")
        assert browser.post("/qa/login", {"token": token, "next": "/qa/"}) == 303
        assert browser.get("/qa/customers").count("Asha") == 3
    finally:
        stop.set()
        thread.join(30)
    assert not thread.is_alive()


class Browser:
    """A minimal browser that can sign in."""

    def __init__(self, url: str) -> None:
        self._host = urlsplit(url).netloc
        self._cookies: dict[str, str] = {}
        self._form_token = ""

    def get(self, path: str) -> str:
        _, page = self._ask("GET", path, None)
        found = re.search(r'name="csrf_token" value="(\w+)"', page)
        self._form_token = found[1] if found else self._form_token
        return page

    def post(self, path: str, values: dict[str, str]) -> int:
        status, _ = self._ask("POST", path, {**values, "csrf_token": self._form_token})
        return status

    def _ask(self, method: str, path: str, form: dict[str, str] | None) -> tuple[int, str]:
        headers = {"Cookie": "; ".join(f"{name}={value}" for name, value in self._cookies.items())}
        if form is not None:
            headers["Origin"] = f"http://{self._host}"
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        connection = http.client.HTTPConnection(self._host, timeout=20)
        connection.request(method, path, None if form is None else urlencode(form), headers)
        answer = connection.getresponse()
        page = answer.read().decode()
        for cookie in answer.headers.get_all("Set-Cookie", []):
            name, _, value = cookie.partition(";")[0].partition("=")
            self._cookies[name] = value
        connection.close()
        return answer.status, page
