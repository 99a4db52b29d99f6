"""Policy heads: states over a window in, a chunk of normalised actions out. One file per head."""
