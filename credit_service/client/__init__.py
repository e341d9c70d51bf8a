"""Client of the service. It uses only RPCs, and imports nothing of the server."""
