"""Processes of this machine: embedded servers, addresses to listen on, and how a process ends."""
