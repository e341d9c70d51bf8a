"""Certificates for development, in TLS connections."""

import ssl
import stat
from pathlib import Path

import pytest

from credit_service.cli import app


def _handshake(client: ssl.SSLContext, server: ssl.SSLContext, host: str) -> None:
    """Connect in memory. Raises SSLError."""
    sent, received = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        client.wrap_bio(received, sent, server_hostname=host),
        server.wrap_bio(sent, received, server_side=True),
    ]
    for _ in range(4):
        for side in sides:
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert sides[1].getpeercert()


def _contexts(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=folder / "ca.pem")
    server.verify_mode = ssl.CERT_REQUIRED
    server.load_cert_chain(folder / "server.pem", folder / "server-key.pem")
    client = ssl.create_default_context(cafile=folder / "ca.pem")
    client.load_cert_chain(folder / "client.pem", folder / "client-key.pem")
    for each in (client, server):
        each.verify_flags |= ssl.VERIFY_X509_STRICT  # the default of Python 3.13
    return client, server


def test_server_and_client_trust_each_other(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    assert app.run(["certificates", str(folder), "--host", "127.0.0.1", "--host", "here"]) == 0
    client, server = _contexts(folder)
    _handshake(client, server, "127.0.0.1")
    _handshake(client, server, "here")
    with pytest.raises(ssl.SSLCertVerificationError):
        _handshake(client, server, "elsewhere")
    assert {stat.S_IMODE(each.stat().st_mode) for each in folder.iterdir()} == {0o600}
    before = (folder / "ca.pem").read_bytes()
    assert app.run(["certificates", str(folder)]) == 1
    assert (folder / "ca.pem").read_bytes() == before


def test_wrong_hosts_and_days_are_rejected(tmp_path: Path) -> None:
    assert app.run(["certificates", str(tmp_path), "--days", "366"]) == 2
    assert app.run(["certificates", str(tmp_path), "--host", "bücher"]) == 2
