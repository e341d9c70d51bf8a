"""The gRPC edge: convert, authorise, call a use case, convert back."""
