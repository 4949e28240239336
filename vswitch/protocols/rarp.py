"""The frame by which a station says where it is, as QEMU sends it for a guest that has migrated (net/announce.c)."""

BROADCAST = b"\xff" * 6
FRAME_MIN = 60
# RFC 903: a reverse request for a station's own address, Ethernet and IPv4.
_TYPE = b"\x80\x35"
_REQUEST = bytes.fromhex("0001 0800 06 04 0003")


def announcement(station: bytes, tag: bytes = b"") -> bytes:
    """A frame from a station to all; `tag` is what is between its addresses and its type."""
    return (BROADCAST + station + tag + _TYPE + _REQUEST + (station + bytes(4)) * 2).ljust(FRAME_MIN, b"\0")
