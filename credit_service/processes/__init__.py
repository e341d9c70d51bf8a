"""Processes on this machine: embedded servers, child processes, addresses and termination."""
