"""`python -m credit_service.cli`, the same as `credit-service`."""

from credit_service.cli.app import main

main()
