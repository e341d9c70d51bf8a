"""Callers that are not known or may not call: what they are answered, and what is logged."""

import time

import structlog

from credit_service.domain.errors import CreditError
from credit_service.rpc.errors import PermissionDeniedError, UnauthenticatedError

_REFUSALS_LOGGED_PER_SECOND = 10

_log = structlog.get_logger(__name__)


# Refusals


class _RefusedError(UnauthenticatedError):
    """UnauthenticatedError, with what only the log is told."""

    def __init__(self, problem: str, message: str, detail: str) -> None:
        super().__init__("UNAUTHENTICATED", message, {"problem": problem})
        self.detail = detail


def unauthenticated(problem: str, message: str, detail: str = "") -> UnauthenticatedError:
    return _RefusedError(problem, message, detail)


def missing_credentials() -> UnauthenticatedError:
    return unauthenticated(
        "missing",
        "The call carries no credentials; send a bearer token, or connect with a client "
        "certificate where the server accepts them.",
    )


def invalid_token(detail: str) -> UnauthenticatedError:
    """The same for everything about a token that its issuer may not have said."""
    return unauthenticated("invalid", "Invalid credentials; send a valid bearer token.", detail)


def denied(scope: str | None) -> PermissionDeniedError:
    if scope is None:
        return PermissionDeniedError("PERMISSION_DENIED", "This method is closed to all callers.")
    return PermissionDeniedError(
        "PERMISSION_DENIED",
        f"Missing scope: this method requires {scope}; use credentials that grant it.",
        {"required_scope": scope},
    )


def hold_no_longer(
    refusal: UnauthenticatedError | PermissionDeniedError, **resume_at: object
) -> UnauthenticatedError | PermissionDeniedError:
    """What a stream ends with whose credentials are refused now; `resume_at` is where its caller
    continues, with others."""
    ended = " Open the stream again with valid credentials."
    kind = (
        PermissionDeniedError
        if isinstance(refusal, PermissionDeniedError)
        else UnauthenticatedError
    )
    return kind(
        refusal.reason,
        refusal.message.removesuffix(ended) + ended,
        {**refusal.metadata, **{key: str(value) for key, value in resume_at.items()}},
    )


def challenge(refusal: Exception) -> str | None:
    """What `www-authenticate` says beside a refusal (RFC 6750); None for refusals of others."""
    match refusal:
        case UnauthenticatedError() if refusal.metadata.get("problem") == "missing":
            return "Bearer"
        case UnauthenticatedError():
            return 'Bearer error="invalid_token"'
        case PermissionDeniedError():
            scope = refusal.metadata.get("required_scope")
            return 'Bearer error="insufficient_scope"' + (f', scope="{scope}"' if scope else "")
    return None


class RefusalLog:
    """Logs refusals, a few a second: whoever sends bad tokens must not fill the disk."""

    def __init__(self) -> None:
        self._second = 0
        self._logged = 0

    def note(self, method: str, refusal: CreditError, principal: str = "") -> None:
        # Counts may be a little off between threads, which is of no matter here.
        second = int(time.monotonic())
        if second != self._second:
            unsaid = self._logged - _REFUSALS_LOGGED_PER_SECOND
            if unsaid > 0:
                _log.warning("more_calls_refused", count=unsaid)
            self._second, self._logged = second, 0
        self._logged += 1
        if self._logged <= _REFUSALS_LOGGED_PER_SECOND:
            detail = refusal.detail[:200] if isinstance(refusal, _RefusedError) else ""
            _log.info(
                "call_refused",
                method=method,
                reason=refusal.reason,
                principal=principal,
                detail=detail,
                **refusal.metadata,
            )
