"""The commands as they are declared: a module for each group of them.

A command imports the module that implements it when it runs, so that `--help` does not wait for
grpc, pandas and SQLAlchemy.
"""
