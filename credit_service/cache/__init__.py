"""Positions in Redis: an answer sooner, never another answer. A failure is a miss."""
