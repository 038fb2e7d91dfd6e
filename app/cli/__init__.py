"""The `distillery` command: one file a verb."""
