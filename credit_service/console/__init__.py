"""The QA console: web pages that use only the service's RPCs.

`build_app` and `run` are in `app`. The package imports the generated contract, the client and the
settings. It has no database connection, and no rights beyond the user's token.
"""
