"""The load campaign: a real server with too many calls, or without a dependency.

`make load`; separate from the tests, because it takes minutes and depends on the machine.
"""
