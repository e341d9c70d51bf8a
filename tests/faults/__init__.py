"""The fault campaign: load, faults, and an account of everything afterwards."""

import os

# The campaign starts processes while it calls, and none of them by forking alone.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
