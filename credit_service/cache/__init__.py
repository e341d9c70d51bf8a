"""Credit positions in Redis: a faster answer, never a different one. A failure is a miss."""
