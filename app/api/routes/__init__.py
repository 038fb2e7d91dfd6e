"""Routes, one file a resource: each parses, calls one function and answers."""
