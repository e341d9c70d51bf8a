"""Use cases that write: one function each."""
