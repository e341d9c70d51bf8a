"""The commands as they are declared: a module for each group of them.

`credit_service.cli.app` lists them. cyclopts imports the module of a command when it runs the
command, and a command imports the module that implements it, so that `--help` does not wait for
grpc, pandas and SQLAlchemy.
"""
