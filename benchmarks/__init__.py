"""What it costs: `python -m benchmarks [NAME ...]`; each prints its figures, the aim, and whether it is reached."""
