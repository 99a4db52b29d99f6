"""Owns what the frozen part of a policy makes of a frame, kept so that no run computes it twice."""
