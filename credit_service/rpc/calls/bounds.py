"""Bounds of waiting that no setting changes, in seconds and calls."""

MESSAGE_SECONDS = 5.0
"""How long a call that takes one message may wait for it. It mostly comes at once."""
MAX_AWAITED = 256
"""Calls that may wait for their message: each may have one of 4 MiB under way."""
HEALTH_MESSAGE_SECONDS = 1.0
MAX_HEALTH_AWAITED = 64
HEALTH_THREADS = 8
"""Threads of health checks, where the private parts of grpc are others than `incoming` knows."""
MAX_HEALTH_WAITING = 64
REFLECTION_IDLE_SECONDS = 5.0
REFLECTION_LIFETIME_SECONDS = 30.0
LAST_SECONDS = 15.0
"""How long after the end of its lifetime a stream is cancelled that has not ended by itself, such
as one whose caller reads nothing. A watch of events ends with its next sign, ten seconds later at
most."""
CREDENTIALS_CHECK_SECONDS = 1.0
NO_LIMIT_SECONDS = 365 * 24 * 3600.0
"""A deadline further away than this is none."""
