"""Errors for invalid credentials and missing scopes, and their log."""

import time

import structlog

from credit_service.domain.errors import CreditError
from credit_service.rpc.errors import PermissionDeniedError, UnauthenticatedError

_MAX_LOGGED_PER_SECOND = 10

_log = structlog.get_logger(__name__)


class _DetailedError(UnauthenticatedError):
    """UnauthenticatedError with a detail for the log alone."""

    def __init__(self, problem: str, message: str, detail: str) -> None:
        super().__init__("UNAUTHENTICATED", message, {"problem": problem})
        self.detail = detail


def unauthenticated(problem: str, message: str, detail: str = "") -> UnauthenticatedError:
    """UNAUTHENTICATED, with the problem as metadata; only the log gets the detail."""
    return _DetailedError(problem, message, detail)


def missing_credentials() -> UnauthenticatedError:
    """UNAUTHENTICATED: the call carries no credentials."""
    return unauthenticated(
        "missing",
        "The call carries no credentials; send a bearer token, or connect with a client "
        "certificate where the server accepts them.",
    )


def invalid_token(detail: str) -> UnauthenticatedError:
    """UNAUTHENTICATED, with one message for all defects of tokens whose issuer is not proven."""
    return unauthenticated("invalid", "Invalid credentials; send a valid bearer token.", detail)


def denied(scope: str | None) -> PermissionDeniedError:
    """PERMISSION_DENIED: the caller lacks the scope; None for a method that no scope opens."""
    if scope is None:
        return PermissionDeniedError("PERMISSION_DENIED", "This method is closed to all callers.")
    return PermissionDeniedError(
        "PERMISSION_DENIED",
        f"Missing scope: this method requires {scope}; use credentials that grant it.",
        {"required_scope": scope},
    )


def stream_unauthorized(
    error: UnauthenticatedError | PermissionDeniedError, **resume_at: object
) -> UnauthenticatedError | PermissionDeniedError:
    """The error that ends a stream whose credentials are no longer valid. `resume_at` says where
    the caller resumes, with other credentials."""
    ended = " Open the stream again with valid credentials."
    kind = (
        PermissionDeniedError if isinstance(error, PermissionDeniedError) else UnauthenticatedError
    )
    return kind(
        error.reason,
        error.message.removesuffix(ended) + ended,
        {**error.metadata, **{key: str(value) for key, value in resume_at.items()}},
    )


def challenge(error: Exception) -> str | None:
    """The `www-authenticate` value of an error (RFC 6750); None for other errors."""
    match error:
        case UnauthenticatedError() if error.metadata.get("problem") == "missing":
            return "Bearer"
        case UnauthenticatedError():
            return 'Bearer error="invalid_token"'
        case PermissionDeniedError():
            scope = error.metadata.get("required_scope")
            return 'Bearer error="insufficient_scope"' + (f', scope="{scope}"' if scope else "")
    return None


class RejectionLog:
    """Logs rejected calls, a few a second, so that bad tokens cannot fill the disk."""

    def __init__(self) -> None:
        self._second = 0
        self._logged = 0

    def add(self, method: str, error: CreditError, principal: str = "") -> None:
        """Log the error, or only count it if this second already has its share."""
        # Threads may miscount a little, which does no harm here.
        second = int(time.monotonic())
        if second != self._second:
            unlogged = self._logged - _MAX_LOGGED_PER_SECOND
            if unlogged > 0:
                _log.warning("more_calls_refused", count=unlogged)
            self._second, self._logged = second, 0
        self._logged += 1
        if self._logged <= _MAX_LOGGED_PER_SECOND:
            detail = error.detail[:200] if isinstance(error, _DetailedError) else ""
            _log.info(
                "call_refused",
                method=method,
                reason=error.reason,
                principal=principal,
                detail=detail,
                **error.metadata,
            )
