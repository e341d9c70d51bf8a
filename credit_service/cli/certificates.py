"""`certificates` creates certificates for development: of an authority, a server and a client."""

import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from credit_service.cli.common import ExitCode, UsageError
from credit_service.cli.ingest import ensure_free
from credit_service.cli.output import note, out

MAX_DAYS = 365
_CLIENT_SCOPES = b'{"developer": ["credit.read", "credit.write", "ingest"]}\n'
_EARLIER = timedelta(minutes=5)  # for machines whose clock is behind
_SIGNS_CERTIFICATES = x509.KeyUsage(
    key_cert_sign=True,
    crl_sign=False,
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    encipher_only=False,
    decipher_only=False,
)


@dataclass(frozen=True, slots=True)
class _Authority:
    key: ec.EllipticCurvePrivateKey
    name: x509.Name
    begin: datetime
    end: datetime


def create(folder: Path, hosts: Sequence[str], days: int) -> int:
    """Write ca.pem, and server and client certificates with their private keys. Overwrite nothing.

    The authority's private key is not stored, so that it can sign nothing else. Raises UsageError,
    FileExistsError.
    """
    if not 1 <= days <= MAX_DAYS:
        raise UsageError(f"--days must be from 1 to {MAX_DAYS}")
    names = [_general_name(each) for each in hosts]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    paths = [folder / name for name in ("ca.pem", "server.pem", "server-key.pem")]
    paths += [folder / name for name in ("client.pem", "client-key.pem", "client-scopes.json")]
    for path in paths:
        ensure_free(path)
    now = datetime.now(UTC)
    name = _named("credit-service development authority")
    authority = _Authority(
        ec.generate_private_key(ec.SECP256R1()), name, now - _EARLIER, now + timedelta(days=days)
    )
    server_key, client_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    alternatives = x509.SubjectAlternativeName(names)
    server = _issued(authority, server_key, hosts[0], ExtendedKeyUsageOID.SERVER_AUTH, alternatives)
    client_name = x509.SubjectAlternativeName([x509.DNSName("developer")])
    client = _issued(
        authority, client_key, "developer", ExtendedKeyUsageOID.CLIENT_AUTH, client_name
    )
    ca = (
        _builder(authority, authority.key, authority.name)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_SIGNS_CERTIFICATES, critical=True)
    )
    contents = (
        _pem(ca.sign(authority.key, hashes.SHA256())),
        _pem(server),
        _key_pem(server_key),
        _pem(client),
        _key_pem(client_key),
        _CLIENT_SCOPES,
    )
    for path, content in zip(paths, contents, strict=True):
        _write_private(path, content)
        out.print(str(path), soft_wrap=True)
    note(f"They are valid for {days} days, for development only. Start the server with:")
    note(f"  export CREDIT_TLS_CERTIFICATE={paths[1]} CREDIT_TLS_PRIVATE_KEY={paths[2]}")
    note(f"Call it with --ca {paths[0]}. For mutual TLS, also start the server with:")
    note(f"  export CREDIT_TLS_CLIENT_CA={paths[0]} CREDIT_CLIENT_SCOPES={paths[5]}")
    note("and call it with:")
    note(f"  export CREDIT_CLIENT_CERTIFICATE={paths[3]} CREDIT_CLIENT_PRIVATE_KEY={paths[4]}")
    return ExitCode.GOOD


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return x509.DNSName(host)
    except ValueError:
        raise UsageError(f"--host {host} is not a host name or an IP address") from None


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _builder(
    authority: _Authority, key: ec.EllipticCurvePrivateKey, subject: x509.Name
) -> x509.CertificateBuilder:
    # RFC 5280 requires the key identifiers, and Python 3.13 checks it.
    public_key = key.public_key()
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(authority.name)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(authority.begin)
        .not_valid_after(authority.end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()),
            critical=False,
        )
    )


def _issued(
    authority: _Authority,
    key: ec.EllipticCurvePrivateKey,
    name: str,
    usage: x509.ObjectIdentifier,
    alternatives: x509.SubjectAlternativeName,
) -> x509.Certificate:
    return (
        _builder(authority, key, _named(name))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(alternatives, critical=False)
        .sign(authority.key, hashes.SHA256())
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _write_private(path: Path, content: bytes) -> None:
    """Write a new file that only its owner can ever read."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
