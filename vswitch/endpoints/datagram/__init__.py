"""Datagrams, a frame each: UDP, unix datagram sockets, multicast groups."""
