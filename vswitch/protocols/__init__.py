"""Wire protocols: bytes in, bytes out; no sockets, no clock."""
