"""Bad inputs by the thousand against a real server; see `__main__` for how to run them."""
