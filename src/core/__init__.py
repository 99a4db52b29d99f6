"""What every other package may use: user-facing errors, crash-safe files, configuration helpers."""
