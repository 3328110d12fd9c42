"""One file per sub-command of the `st4vla` console script."""
