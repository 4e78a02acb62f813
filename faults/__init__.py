"""The fault run: what docs/reliability.md promises, done to real nodes and read from what they left behind."""
