"""Streams of frames over TLS, between two switches: what `tls=` makes of tcp://."""
