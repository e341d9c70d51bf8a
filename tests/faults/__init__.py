"""The fault campaign: load, faults, and an account of everything afterwards."""
