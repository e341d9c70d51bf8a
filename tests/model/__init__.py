"""A model of the service in plain Python, and a state machine that compares both."""
