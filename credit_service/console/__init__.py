"""The QA console: pages over the service's RPCs, and nothing but them.

`build_app` and `run` are in `app`. The package imports the generated contract, the client's channel
and the settings; it holds no database handle and no rights beyond the token of who uses it.
"""
