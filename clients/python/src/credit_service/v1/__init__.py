"""Generated from protos/credit_service/v1 by scripts/contract.py. Do not edit."""
