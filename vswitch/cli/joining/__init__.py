"""Commands that are on a LAN themselves, as long as they run."""
