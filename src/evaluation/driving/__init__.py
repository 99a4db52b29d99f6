"""Driving simulated tasks, and the films of it."""
