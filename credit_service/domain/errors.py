"""Errors of the domain. The edge maps their kinds to statuses; nothing here knows the wire.

Every error carries a `reason` (a name of the contract's ErrorReason), a message that a person can
act on, and figures as metadata. `to_dict` and `from_dict` carry an error to another process.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

REQUIRED = "REQUIRED"
"""Field violation: the value is missing or blank."""
OUT_OF_RANGE = "OUT_OF_RANGE"
"""Field violation: the value is outside the allowed range."""
INVALID_FORMAT = "INVALID_FORMAT"
"""Field violation: the value does not have the format of the field."""


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One invalid field: its contract name, an UPPER_SNAKE reason, a sentence for a person."""

    field: str
    reason: str
    message: str


_KINDS: dict[str, type["CreditError"]] = {}


class CreditError(Exception):
    """Base of all errors of the domain. The subclass is the kind; `reason` names the rule."""

    reason: str
    message: str
    metadata: dict[str, str]

    def __init__(
        self, reason: str, message: str, metadata: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(reason, message)
        self.reason = reason
        self.message = message
        self.metadata = dict(metadata or {})

    def __init_subclass__(cls) -> None:
        _KINDS[cls.__name__] = cls

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CreditError) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash((type(self).__name__, self.reason, self.message))

    def __reduce__(self) -> tuple[Any, ...]:
        return (from_dict, (self.to_dict(),))

    def to_dict(self) -> dict[str, Any]:
        """The error as strings, numbers, lists and dicts; `from_dict` restores an equal error."""
        return {
            "kind": type(self).__name__,
            "reason": self.reason,
            "message": self.message,
            "metadata": dict(self.metadata),
            **self._details(),
        }

    @staticmethod
    def from_dict(document: Mapping[str, Any]) -> "CreditError":
        """The error of a `to_dict` document. Raises ValueError for any other document."""
        fields = dict(document)
        kind = str(fields.pop("kind", None))
        cls = _KINDS.get(kind)
        if cls is None:
            raise ValueError(f"unknown kind of error: {kind}")
        try:
            return cls._restore(fields)
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a stored {kind}: {error!r}") from error

    def _details(self) -> dict[str, Any]:
        """The kind's fields beyond reason, message and metadata, by argument name."""
        return {}

    @classmethod
    def _restore(cls, document: dict[str, Any]) -> "CreditError":
        return cls(**document)


_KINDS["CreditError"] = CreditError
from_dict = CreditError.from_dict


class InvalidRequestError(CreditError):
    """An invalid request, for a reason that concerns no single field."""


class InvalidFieldsError(InvalidRequestError):
    """All invalid fields of a request; the metadata has their comma-separated names."""

    violations: tuple[FieldViolation, ...]

    def __init__(
        self,
        violations: Sequence[FieldViolation],
        reason: str = "INVALID_FIELD",
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        if not violations:
            raise ValueError("InvalidFieldsError needs at least one violation")
        self.violations = tuple(violations)
        fields = ",".join(dict.fromkeys(each.field for each in violations))
        super().__init__(
            reason,
            " ".join(each.message for each in violations),
            {"fields": fields, **(metadata or {})},
        )

    def _details(self) -> dict[str, Any]:
        return {
            "violations": [
                {"field": each.field, "reason": each.reason, "message": each.message}
                for each in self.violations
            ]
        }

    @classmethod
    def _restore(cls, document: dict[str, Any]) -> "InvalidFieldsError":
        violations = [FieldViolation(**each) for each in document["violations"]]
        return cls(violations, document["reason"], document["metadata"])


class _ResourceError(CreditError):
    """An error about one resource."""

    def __init__(
        self,
        reason: str,
        resource_type: str,
        resource_name: str,
        message: str,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(reason, message, metadata)
        self.resource_type = resource_type
        self.resource_name = resource_name

    def _details(self) -> dict[str, Any]:
        return {"resource_type": self.resource_type, "resource_name": self.resource_name}


class NotFoundError(_ResourceError):
    """The resource does not exist. Its name is its id, which is also the default metadata."""

    def __init__(
        self,
        reason: str,
        resource_type: str,
        resource_name: str,
        message: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        message = message or f"There is no {resource_type} {resource_name}."
        if metadata is None:
            metadata = {f"{resource_type}_id": resource_name}
        super().__init__(reason, resource_type, resource_name, message, metadata)


class AlreadyExistsError(_ResourceError):
    """Something that must be unique already exists."""

    def __init__(
        self,
        reason: str,
        resource_type: str,
        resource_name: str,
        message: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        message = message or f"The {resource_type} {resource_name} already exists."
        super().__init__(reason, resource_type, resource_name, message, metadata)


class PreconditionFailedError(CreditError):
    """The current state forbids the request, and a retry alone does not help.

    `subject` names the resource in the wrong state, such as 'loans/20/1003'.
    """

    def __init__(
        self,
        reason: str,
        message: str,
        subject: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(reason, message, metadata)
        self.subject = subject

    def _details(self) -> dict[str, Any]:
        return {"subject": self.subject}


class NotOwnerError(CreditError):
    """The resource belongs to another caller; only that caller may continue."""


class RequestIdReusedError(PreconditionFailedError):
    """The request id was used before for other content."""


class _TransientError(CreditError):
    """A retry may succeed after `retry_after_seconds`."""

    def __init__(
        self,
        reason: str,
        message: str,
        retry_after_seconds: float,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(reason, message, metadata)
        self.retry_after_seconds = retry_after_seconds

    def _details(self) -> dict[str, Any]:
        return {"retry_after_seconds": self.retry_after_seconds}


class RetryLaterError(_TransientError):
    """The same request is still running, or conflicts used up the retries."""


class UnavailableError(_TransientError):
    """A dependency of the service is unreachable."""


class OverloadedError(_TransientError):
    """The server or a principal is at capacity."""


class OutOfRangeError(CreditError):
    """A position outside of the range: a batch beyond the committed offset, or events that are no
    longer kept."""
