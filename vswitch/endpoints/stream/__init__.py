"""Streams of frames with length prefixes: TCP and unix sockets, listening and connecting."""
