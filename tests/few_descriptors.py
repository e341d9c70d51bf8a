"""`python -m tests.few_descriptors N`: a server that may never open more than N descriptors."""

import resource
import sys

limit = int(sys.argv.pop(1))
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))

from credit_service.rpc.__main__ import main  # noqa: E402 - under that limit from its start

sys.exit(main())
