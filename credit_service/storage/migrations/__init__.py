"""Alembic migrations. `credit-service migrate` applies them; `make check` compares the tables."""
