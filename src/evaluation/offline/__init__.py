"""Scores of recorded drives: errors, phases, trajectories, curves."""
