"""Fuzzing of everything that reads bytes from outside: `make fuzz`. What is found stays in regressions/ as a test."""
