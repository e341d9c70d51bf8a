"""Use cases that only read: one function each."""
