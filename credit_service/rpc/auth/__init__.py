"""Authentication and authorization of callers: tokens, certificates, scopes."""
