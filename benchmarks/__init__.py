"""The service compared with its lower bounds: `python -m benchmarks`.

Every result is a ratio of two workloads that alternate in one run. Ratios are more stable across
machines, and on a busy machine, than absolute values.
"""
