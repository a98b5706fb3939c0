"""Benchmarks: every figure is measured beside its rival, in one process, and kept with its provenance."""
