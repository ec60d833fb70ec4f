"""The same thing in another trainer's words: a record as its flags, and its configuration as a run.toml."""
