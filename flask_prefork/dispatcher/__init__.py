"""The dispatcher: the process that the user started, which orders the workers."""
