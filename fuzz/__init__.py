"""Fuzzing of everything that reads bytes from outside: `make fuzz`. What once broke a reader stays in regressions/ as a test."""
