"""What a run leaves behind and how it is taken up again: record, checkpoints, resume, loggers, callbacks."""
