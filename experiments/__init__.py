"""The paper in small: run as `python -m experiments.NAME`."""
