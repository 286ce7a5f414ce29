"""Metrics, each a function of arrays."""
