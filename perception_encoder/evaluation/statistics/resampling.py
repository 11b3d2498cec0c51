"""How intervals are made: the percentiles of figures over items drawn anew."""

from __future__ import annotations

RESAMPLES = 1000
INTERVAL = (2.5, 97.5)  # percentiles
HEAD_SEEDS = 3
"""Seeds that a head over frozen features is fitted with: what its random weights do to a figure is in the interval."""
