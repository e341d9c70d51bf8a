"""The service against its limits, side by side: `python -m benchmarks`.

Every figure is a ratio of two kinds of work that took turns in one run, so that it holds on another
machine and on a busy one better than either figure by itself.
"""
