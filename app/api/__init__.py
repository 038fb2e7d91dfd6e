"""The HTTP interface of the service; imports no torch: it starts at once, stays small."""
