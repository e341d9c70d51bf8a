"""Use cases that change something: one function each."""
