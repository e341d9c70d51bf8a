"""What every call passes: admission, limits, deadlines, the access log, the threads it runs on."""
