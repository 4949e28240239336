"""Helpers that plug into an ordinary port: programs of their own, so that what happens to them costs one port."""
