"""Which runs are there: found, filtered, shown, set side by side."""
