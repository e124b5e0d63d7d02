"""Benchmarks: cases as data, peers, limits, one runner."""
