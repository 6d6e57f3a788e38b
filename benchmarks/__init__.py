"""Measurements that docs quote, each run as ``python -m benchmarks.NAME --json``; conditions stand in each module."""
