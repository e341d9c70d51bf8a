"""The claims of a bearer token, for people. Not verified: only the service can verify them."""

import base64
import binascii
import json
from typing import Any


def claims(token: str) -> dict[str, Any]:
    """Return the claims of a JWT; {} for a token in another format."""
    try:
        payload = token.split(".")[1]
        found = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (IndexError, binascii.Error, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def claim(token: str, name: str) -> str:
    """Return a claim that is text, or ''."""
    value = claims(token).get(name, "")
    return value if isinstance(value, str) else ""
