"""The room of the benchmark: how fast this project is on the machine at hand, and against the slower ways."""
