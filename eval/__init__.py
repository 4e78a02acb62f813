"""Offline evaluation; reads checkpoints and data, never a socket."""
