"""Snapshots between neighbours over ZeroMQ. Named arrays and bytes; knows nothing of torch or GANs."""
