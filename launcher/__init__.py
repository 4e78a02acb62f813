"""Turns a graph file into running nodes; imports no torch."""
