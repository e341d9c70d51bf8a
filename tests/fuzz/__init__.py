"""Sends thousands of invalid inputs to a real server; see `__main__` for the command."""
