"""Alembic migrations. `credit-service migrate` applies them; `make check` looks for drift."""
