"""The command groups: one module each, thin over SQL."""
