"""Read stored JSON documents as records, ignoring fields that a later release added.

A record is a dataclass or a named tuple.

Servers of two releases run side by side during an update, and a release may be rolled back. So a
reader takes the fields that it knows and ignores the others, which stay in the stored document.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def field_names(cls: Any) -> tuple[str, ...]:
    """The names of a record's fields, in order."""
    names: tuple[str, ...] = cls.__match_args__
    return names


def from_document(cls: type[T], document: Mapping[str, Any], **read: Any) -> T:
    """A record with the document's values; those in `read` replace the document's.

    Unknown fields are ignored. Raises TypeError where a field without default is missing.
    """
    known = {name: document[name] for name in field_names(cls) if name in document}
    return cls(**{**known, **read})
