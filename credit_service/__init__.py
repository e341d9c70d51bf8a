"""A gRPC credit decision service: the contract, the rules, and everything between them."""
