"""Names of callers, as what they did is recorded under them."""

ANONYMOUS = "anonymous"
"""The one caller of a server that asks for no credentials."""


def is_other(principal: str, owner: str) -> bool:
    """Whether two callers are known to be different. An anonymous one is not known."""
    return principal != owner and ANONYMOUS not in (principal, owner)
