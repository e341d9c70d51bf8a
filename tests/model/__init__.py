"""A model of the service in plain Python, and a machine that asks both the same things."""
