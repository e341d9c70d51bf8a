"""A service with TLS and tokens, for tests that run programs."""

from pathlib import Path

import trustme

from tests.system.up import credit_service, environment


def secured_settings(folder: Path) -> dict[str, str]:
    """Write certificates, keys and a token into the folder. Return the settings of the service, and
    of its callers."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(folder / "key.pem")
    issued.cert_chain_pems[0].write_to_path(folder / "certificate.pem")
    assert credit_service("token", "key", str(folder)).returncode == 0
    issuer = environment(CREDIT_TOKEN_ISSUER="credit-service-dev")
    made = credit_service("token", f"--key={folder / 'signing-key.private.jwk'}", env=issuer)
    return {
        "CREDIT_TOKEN_ISSUER": "credit-service-dev",
        "CREDIT_TLS_CERTIFICATE": str(folder / "certificate.pem"),
        "CREDIT_TLS_PRIVATE_KEY": str(folder / "key.pem"),
        "CREDIT_TOKEN_KEYS": str(folder / "jwks.json"),
        "CREDIT_SERVER_CA": str(folder / "ca.pem"),
        "CREDIT_TOKEN": made.stdout.strip(),
    }
