"""Examining a data set before a training does: one function per finding, a runner, and what shows the result."""
