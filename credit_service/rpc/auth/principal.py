"""Principals and scopes."""

from dataclasses import dataclass

from credit_service.domain.principals import ANONYMOUS as ANONYMOUS_NAME

SCOPES = frozenset(
    {
        "credit.read",
        "credit.write",
        "credit.review",
        "policy.read",
        "policy.write",
        "ingest",
        "ingest.update",
        "admin",
    }
)
"""Every scope of the contract."""
MAX_NAME_CHARACTERS = 128

CERTIFICATE_PREFIX = "cert:"
"""Prefix of the names of principals known by a certificate."""


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller: its name, as stored with decisions and in logs, and its scopes."""

    name: str
    scopes: frozenset[str]


ANONYMOUS = Principal(ANONYMOUS_NAME, SCOPES)
"""Every caller of a server that requires no credentials."""


def is_principal_name(text: str) -> bool:
    """Whether the text can be a principal's name: 1 to 128 printable characters, trimmed."""
    return 0 < len(text) <= MAX_NAME_CHARACTERS and text.isprintable() and text == text.strip()
