"""Benchmarks: `make bench JSON=bench.json`.  Ratios and budgets, never asserted in tests."""
