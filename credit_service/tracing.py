"""W3C trace context: which trace a call belongs to, read from its caller and given back.

https://www.w3.org/TR/trace-context/. A caller that sends `traceparent` finds the call's log lines
by `trace_id`, and is told by `traceresponse` under which span. Spans are not recorded or sent
anywhere.
"""

import random
import re
from dataclasses import dataclass
from typing import Self

TRACEPARENT_KEY = "traceparent"
TRACERESPONSE_KEY = "traceresponse"

_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?P<trace>[0-9a-f]{32})-(?P<span>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})(-.*)?"
)
_NO_TRACE, _NO_SPAN = "0" * 32, "0" * 16


@dataclass(frozen=True, slots=True)
class Span:
    """A place in a trace: ids in lower-case hexadecimal, 32, 16 and 2 digits."""

    trace_id: str
    span_id: str
    flags: str

    @classmethod
    def read(cls, traceparent: str) -> Self | None:
        """The caller's span; None for what the specification calls invalid, which is ignored."""
        found = _TRACEPARENT.fullmatch(traceparent)
        if found is None or found["trace"] == _NO_TRACE or found["span"] == _NO_SPAN:
            return None
        # Of a later version only these fields are known; one of version 00 has no others.
        if traceparent.startswith("00") and found[4] is not None:
            return None
        return cls(found["trace"], found["span"], found["flags"])

    def child(self) -> "Span":
        """A span of its own in the same trace."""
        span_id = f"{random.getrandbits(64) or 1:016x}"
        return Span(self.trace_id, span_id, self.flags)

    def __str__(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"
