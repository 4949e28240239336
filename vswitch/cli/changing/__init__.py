"""Commands that change a running switch."""
