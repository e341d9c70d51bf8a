"""Names of principals, under which their actions are recorded."""

ANONYMOUS = "anonymous"
"""The principal of every call to a server that requires no credentials."""


def is_other(principal: str, owner: str) -> bool:
    """Whether the two are known to be different callers; an anonymous caller is not known."""
    return principal != owner and ANONYMOUS not in (principal, owner)


def is_known_same(principal: str, other: str) -> bool:
    """Whether the two are known to be the same caller; an anonymous caller is not known."""
    return principal == other != ANONYMOUS
