"""Use cases that read: one function each."""
