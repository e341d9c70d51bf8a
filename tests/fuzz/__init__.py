"""Sends thousands of bad inputs to a real server; see `__main__` for the command."""
