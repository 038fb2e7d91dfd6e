"""One file a question; each prints a table and writes benchmarks/results/NAME.json."""
