"""Scopes of client certificates, without a server."""

import json
from pathlib import Path

import pytest

from credit_service.processes.address import MisconfiguredError
from credit_service.rpc.auth.certificates import CertificateScopes
from credit_service.rpc.auth.gatekeeper import Gatekeeper
from credit_service.rpc.auth.principal import Principal
from credit_service.rpc.errors import UnauthenticatedError
from tests.unit.rpc.auth.signing import READ, Context, Fixture, admit


@pytest.fixture
def certificates(tmp_path: Path) -> CertificateScopes:
    path = tmp_path / "scopes.json"
    path.write_text(
        json.dumps({"spiffe://x/billing": ["credit.read"], "teller.example": ["ingest"], "cn": []})
    )
    return CertificateScopes(path)


@pytest.mark.parametrize(
    ("peer", "name", "scopes"),
    [
        ({"peer_uri": [b"spiffe://x/billing"]}, "spiffe://x/billing", {"credit.read"}),
        ({"peer_dns": [b"other", b"teller.example"]}, "teller.example", {"ingest"}),
        ({"peer_dns": [b"other"], "x509_common_name": [b"teller.example"]}, "other", set()),
        ({"x509_common_name": [b"teller.example"]}, "teller.example", {"ingest"}),
        (
            {"peer_uri": [b"spiffe://x/billing"], "peer_dns": [b"teller.example"]},
            "spiffe://x/billing",
            {"credit.read"},
        ),
    ],
)
def test_a_certificate_has_the_scopes_of_its_name(
    certificates: CertificateScopes,
    peer: dict[str, list[bytes]],
    name: str,
    scopes: set[str],
) -> None:
    assert certificates.principal(peer) == Principal(f"cert:{name}", frozenset(scopes))


@pytest.mark.parametrize("peer", [{}, {"x509_common_name": [b""]}, {"x509_common_name": [b"a\nb"]}])
def test_a_connection_without_a_name(
    certificates: CertificateScopes, peer: dict[str, list[bytes]]
) -> None:
    with pytest.raises(UnauthenticatedError):
        certificates.principal(peer)


def test_a_certificate_does_not_replace_an_invalid_token(
    fixture: Fixture, certificates: CertificateScopes
) -> None:
    gatekeeper = Gatekeeper({READ: "credit.read"}, fixture.verifier, certificates)
    peer = {"peer_uri": [b"spiffe://x/billing"]}
    assert admit(gatekeeper, READ, Context(peer=peer)).name == "cert:spiffe://x/billing"
    token = ("authorization", f"Bearer {fixture.token()}")
    assert admit(gatekeeper, READ, Context(token, peer=peer)).name == "teller-7"
    with pytest.raises(UnauthenticatedError):
        admit(gatekeeper, READ, Context(("authorization", "Bearer x"), peer=peer))


@pytest.mark.parametrize("content", ["", "[]", '{"a": "admin"}', '{"a": ["root"]}', '{"a": [[]]}'])
def test_scopes_of_certificates_that_cannot_be_read(tmp_path: Path, content: str) -> None:
    path = tmp_path / "scopes.json"
    path.write_text(content)
    with pytest.raises(MisconfiguredError, match="CREDIT_CLIENT_SCOPES"):
        CertificateScopes(path)
