"""Read stored JSON documents as dataclasses, ignoring fields that a later release added.

Servers of two releases run side by side during an update, and a release may be rolled back. So a
reader takes the fields that it knows and ignores the others, which stay in the stored document.
"""

from collections.abc import Mapping
from dataclasses import fields
from functools import lru_cache
from typing import Any, TypeVar

T = TypeVar("T")


@lru_cache(maxsize=64)
def field_names(cls: Any) -> tuple[str, ...]:
    """The names of a dataclass's fields, in order."""
    return tuple(field.name for field in fields(cls))


def from_document(cls: type[T], document: Mapping[str, Any], **read: Any) -> T:
    """A dataclass with the document's values; those in `read` replace the document's.

    Unknown fields are ignored. Raises TypeError where a field without default is missing.
    """
    names: tuple[str, ...] = field_names(cls)  # type: ignore[arg-type]  # a class is hashable
    known = {name: document[name] for name in names if name in document}
    return cls(**{**known, **read})
