"""Commands that show what a running switch says."""
