"""What the orchestration costs, as ratios: `python -m benchmarks.orchestration`."""
