"""Benchmarks: ratios measured in one run, never absolute times of a shared machine."""
