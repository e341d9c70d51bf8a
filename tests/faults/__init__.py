"""The fault campaign: load, faults, and a check of all data afterwards."""

import os

# The campaign starts processes while grpc is in use, and always with exec after fork.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
