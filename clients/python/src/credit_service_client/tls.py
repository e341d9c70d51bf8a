"""TLS of a client: its certificate files, and the reasons why a connection fails."""

import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

_PROBE_SECONDS = 3.0


class TlsFileError(ValueError):
    """A file of certificates or keys is unusable. The message names the file and the reason."""


@dataclass(frozen=True, slots=True)
class ClientTls:
    """The trusted authorities, and the client's certificate and private key."""

    ca: Path
    certificate: Path | None = None
    private_key: Path | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """Return the credentials of a gRPC channel. Raises TlsFileError for an unusable file."""
        self.context()
        return grpc.ssl_channel_credentials(
            _read("--ca, CREDIT_SERVER_CA", self.ca),
            None if self.private_key is None else self.private_key.read_bytes(),
            None if self.certificate is None else self.certificate.read_bytes(),
        )

    def context(self) -> ssl.SSLContext:
        """Return the context for the ssl module. Raises TlsFileError for an unusable file."""
        pem = _read("--ca, CREDIT_SERVER_CA", self.ca)
        try:
            context = ssl.create_default_context(cadata=pem.decode("ascii", errors="replace"))
        except (ssl.SSLError, ValueError):
            context = None
        # If the file has no certificate, OpenSSL would load those of the system instead.
        if context is None or not context.get_ca_certs():
            raise TlsFileError(
                f"{self.ca} (--ca, CREDIT_SERVER_CA) is not a PEM file of certificate authorities"
            )
        self._present(context)
        context.set_alpn_protocols(["h2"])
        return context

    def _present(self, context: ssl.SSLContext) -> None:
        certificate, key = self.certificate, self.private_key
        if certificate is None and key is None:
            return
        if certificate is None or key is None:
            raise TlsFileError(
                "a client certificate requires both CREDIT_CLIENT_CERTIFICATE and"
                " CREDIT_CLIENT_PRIVATE_KEY"
            )
        _read("CREDIT_CLIENT_CERTIFICATE", certificate)
        _read("CREDIT_CLIENT_PRIVATE_KEY", key)
        try:
            # A key with a password must fail here, and not prompt on the terminal.
            context.load_cert_chain(certificate, key, password=lambda: b"")
        except (ssl.SSLError, ValueError):
            raise TlsFileError(
                f"{certificate} (CREDIT_CLIENT_CERTIFICATE) and {key} (CREDIT_CLIENT_PRIVATE_KEY)"
                " are not a PEM certificate and its private key without a password"
            ) from None


def _read(variables: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TlsFileError(f"{path} ({variables}) cannot be read: {error.strerror}") from error


def connection_problem(address: str, tls: ClientTls | None) -> str | None:
    """Return in one sentence why a TLS or plaintext connection to `address` fails.

    None for another reason: no server there, or an address that is not host:port. Opens its own
    connections, so call it only after the channel failed.
    """
    host, _, port_text = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (host and port_text.isdigit()):
        return None
    if tls is None:
        return _problem_in_plaintext(host, int(port_text))
    return _problem_with_tls(host, int(port_text), tls)


def _problem_in_plaintext(host: str, port: int) -> str | None:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        _shake_hands(host, port, context)
    except ssl.SSLError as error:
        if "CERTIFICATE" not in (error.reason or ""):
            return None
    except OSError:
        return None
    return (
        f"The server at {host}:{port} requires TLS: set --ca or CREDIT_SERVER_CA to the authority"
        " that issued its certificate."
    )


def _problem_with_tls(host: str, port: int, tls: ClientTls) -> str | None:
    where = f"The server at {host}:{port}"
    wants_certificate = (
        f"{where} requires a client certificate: set CREDIT_CLIENT_CERTIFICATE and"
        " CREDIT_CLIENT_PRIVATE_KEY to one that it accepts."
    )
    try:
        # A gRPC server sends first. One that closes the connection rejected the client.
        return None if _shake_hands(host, port, tls.context()) else wants_certificate
    except ssl.SSLCertVerificationError as error:
        reason = error.verify_message.rstrip(".")
        advice = (
            "use a host name that is in the certificate"
            if "mismatch" in reason
            else f"{tls.ca} must contain the authority that issued it"
        )
        return f"{where} presents an invalid certificate ({reason}): {advice}."
    except ssl.SSLError as error:
        reason = (error.reason or str(error)).replace("_", " ").lower()
        if "certificate" in reason:
            return wants_certificate
        return (
            f"{where} does not use TLS ({reason}): remove --ca and CREDIT_SERVER_CA, or use"
            " another address."
        )
    except ConnectionRefusedError:
        return None
    except ConnectionError:
        return (
            f"{where} closed the connection during the TLS handshake: it probably does not use TLS."
        )
    except OSError:
        return None


def _shake_hands(host: str, port: int, context: ssl.SSLContext) -> bytes:
    """Connect with TLS and read once, because a server rejects a client certificate only then."""
    with (
        socket.create_connection((host, port), _PROBE_SECONDS) as connection,
        context.wrap_socket(connection, server_hostname=host) as secured,
    ):
        secured.settimeout(_PROBE_SECONDS)
        return secured.recv(1)
