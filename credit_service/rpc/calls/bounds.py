"""Time limits and counts that no setting changes."""

MESSAGE_SECONDS = 5.0
"""How long a call of one request message waits for it. Usually it arrives with the headers."""
MAX_PENDING = 256
"""Calls that may wait for their message, which takes up to 4 MiB each."""
HEALTH_MESSAGE_SECONDS = 1.0
"""How long a health check waits for its message. Any caller may send health checks."""
MAX_HEALTH_PENDING = 64
HEALTH_THREADS = 8
"""Threads for health checks, used only where `incoming` does not support this grpc release."""
MAX_HEALTH_WAITING = 64
MAX_ASKS = 1_000
"""Asks in a batch."""
ASKS_PER_CALL = 10
"""How many asks of a batch count as one call, in the calls per second of a principal."""
BATCH_THREADS = 1
"""Threads that serve batches. A batch is mostly computation, so several at once would take no less
time, and hold up the other calls."""
MAX_WAITING_BATCHES = 16
"""Batches that may wait for a thread."""
MAX_BATCH_WAIT_SECONDS = 2.0
"""How long a batch may wait while more batches arrive than the server can serve."""
REFLECTION_IDLE_SECONDS = 5.0
REFLECTION_LIFETIME_SECONDS = 30.0
LAST_SECONDS = 15.0
"""Time between the end of a stream's lifetime and its cancellation, for a stream that does not end
by itself, such as one whose caller reads nothing. A watch of events ends at its next heartbeat, at
most ten seconds later."""
CREDENTIALS_CHECK_SECONDS = 1.0
"""How often a stream's credentials are checked again."""
NO_LIMIT_SECONDS = 365 * 24 * 3600.0
"""A caller's deadline further away than this counts as none."""
