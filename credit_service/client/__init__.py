"""Client of the service: RPC only, nothing of the server's inside."""
