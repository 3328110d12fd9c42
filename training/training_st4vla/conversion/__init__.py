"""Released checkpoints of other code bases into ST4VLA model folders."""
