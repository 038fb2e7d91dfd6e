"""The command line, and later the HTTP service: all that a person meets first."""
