"""TLS of the server: its certificate, and the authorities of its clients' certificates.

The server checks the files when a client connects, so replacing the files renews the certificate.
It ignores a certificate and key that do not match, as between the two replacements, and keeps the
old pair. Open connections keep the certificate that they started with.
"""

import threading
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from credit_service.processes.address import MisconfiguredError
from credit_service.rpc.auth.reloading import Reloaded, read_bounded
from credit_service.settings import Settings

_Configuration = grpc.ServerCertificateConfiguration


def server_credentials(settings: Settings) -> grpc.ServerCredentials | None:
    """The credentials of the port; None where the settings name no certificate.

    With client authorities, a connection without a certificate of theirs fails.

    Raises:
        MisconfiguredError: a file is missing, cannot be read, or does not match the others.
    """
    certificate, key = settings.tls_certificate, settings.tls_private_key
    authorities = settings.tls_client_ca
    if certificate is None or key is None:
        if certificate is not None or key is not None or authorities is not None:
            raise MisconfiguredError(
                "TLS needs both CREDIT_TLS_CERTIFICATE and CREDIT_TLS_PRIVATE_KEY: set both"
            )
        return None
    files = [each for each in (certificate, key, authorities) if each is not None]
    try:
        configuration = Reloaded(
            "tls_files", lambda: files, lambda: _configuration(certificate, key, authorities)
        )
    except (OSError, ValueError) as error:
        raise MisconfiguredError(f"TLS cannot be configured: {error}") from error
    return grpc.dynamic_ssl_server_credentials(
        configuration.current(),
        _Changes(configuration).next,  # type: ignore[arg-type]  # the stubs leave its None out
        require_client_authentication=authorities is not None,
    )


class _Changes:
    """Hands each new configuration to grpc once, as grpc requires."""

    def __init__(self, configuration: Reloaded[_Configuration]) -> None:
        self._configuration = configuration
        self._given = configuration.current()
        self._lock = threading.Lock()

    def next(self) -> _Configuration | None:
        """The configuration if it changed since the last call, else None."""
        with self._lock:
            current = self._configuration.current()
            if current is self._given:
                return None
            self._given = current
            return current


def _configuration(certificate: Path, key: Path, authorities: Path | None) -> _Configuration:
    """The files' content, checked here: grpc would report an invalid file only at a connection."""
    certificate_pem, key_pem = read_bounded(certificate), read_bounded(key)
    try:
        chain = x509.load_pem_x509_certificates(certificate_pem)
    except ValueError as error:
        raise ValueError(f"{certificate} is not a certificate in PEM") from error
    try:
        private = serialization.load_pem_private_key(key_pem, password=None)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{key} is not a private key in PEM without a password") from error
    if _public_bytes(private.public_key()) != _public_bytes(chain[0].public_key()):
        raise ValueError(f"{key} is not the key of the certificate in {certificate}")
    authorities_pem = None
    if authorities is not None:
        authorities_pem = read_bounded(authorities)
        try:
            x509.load_pem_x509_certificates(authorities_pem)
        except ValueError as error:
            raise ValueError(f"{authorities} has no certificate in PEM") from error
    return grpc.ssl_server_certificate_configuration([(key_pem, certificate_pem)], authorities_pem)


def _public_bytes(key: object) -> bytes:
    assert hasattr(key, "public_bytes")  # noqa: S101 - every key of the library has it
    data: bytes = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return data
