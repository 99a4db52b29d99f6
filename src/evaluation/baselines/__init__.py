"""Opponents that know next to nothing."""
