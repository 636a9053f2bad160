"""What tables and the report of many trials take: `python -m benchmarks.analysis`."""
