"""One file a dataset format; `resolve.open_source` picks it from a reference."""
