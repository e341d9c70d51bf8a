"""Logs, metrics and traces: what a running process reports about itself."""
