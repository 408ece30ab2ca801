"""The zygote: the process that loads the app and forks the workers."""
