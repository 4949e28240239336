"""VXLAN (RFC 7348): Ethernet frames over UDP, in segments that have a number of 24 bits each (VNI).

    08 00 00 00 | VNI, 24 bits | 00 | frame

What is reserved must be zero here, as Linux has it (drivers/net/vxlan/vxlan_core.c), though the RFC would have it
ignored: other bits there mean extensions, of which the rest could not be read.
"""

from vswitch.dataplane.tunnel import Encapsulation

PORT = 4789  # IANA's; Linux takes 8472 unless it is told
VXVDE_PORT = 14789  # vdeplug4, libvdeplug_vxvde.c
HEADER = 8
VNI_MAX = 0xFF_FFFF

_FLAGS = b"\x08\0\0\0"  # the VNI is valid
_KIND, _NUMBER = b"\xff\xff\xff\xff\0\0\0\xff", b"\0\0\0\0\xff\xff\xff\0"  # bits of the header


def header(vni: int) -> bytes:
    """What stands before each frame of a segment."""
    return _FLAGS + vni.to_bytes(3) + b"\0"


def parse(datagram: bytes) -> tuple[int, bytes] | None:
    """The VNI and the frame of a datagram, or None if it is no VXLAN packet."""
    if len(datagram) < HEADER or not datagram.startswith(_FLAGS) or datagram[7]:
        return None
    return int.from_bytes(datagram[4:7]), datagram[HEADER:]


def encapsulation(vni: int) -> Encapsulation:
    """The same for the data plane."""
    return Encapsulation(header(vni), -1, HEADER, 0, header(vni), _KIND, _NUMBER, b"")
