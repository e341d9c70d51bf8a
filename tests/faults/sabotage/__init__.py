"""A folder for PYTHONPATH: Python itself imports sitecustomize from it at every start."""
