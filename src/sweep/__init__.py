"""Searches with Optuna: a space in Hydra's words, a study that survives kills and several processes, its results."""
