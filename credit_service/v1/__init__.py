"""Generated from protos/credit_service/v1 by scripts/contract.py. Not edited by hand."""
