"""Who calls, and the scopes that exist."""

from dataclasses import dataclass

from credit_service.domain.principals import ANONYMOUS as ANONYMOUS_NAME

SCOPES = frozenset({"credit.read", "credit.write", "ingest", "ingest.update", "admin"})
"""Every scope of the contract."""
MAX_NAME_CHARACTERS = 128

CERTIFICATE_PREFIX = "cert:"
"""What a principal's name begins with who is known by a certificate."""


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller: its name, as decisions and logs keep it, and its scopes."""

    name: str
    scopes: frozenset[str]


ANONYMOUS = Principal(ANONYMOUS_NAME, SCOPES)
"""Whoever calls a server that asks nobody for credentials."""


def is_principal_name(text: str) -> bool:
    return 0 < len(text) <= MAX_NAME_CHARACTERS and text.isprintable() and text == text.strip()
