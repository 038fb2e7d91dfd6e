"""Students, metrics, groups and the harness in which all image sets are compared."""
