"""Commands, child processes, progress, and messages."""
