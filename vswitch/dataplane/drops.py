"""Why frames are dropped: the one list. Every drop is counted on a port, by one of these reasons.

A verdict on a frame that is below zero is a drop: `refuse(reason)`.
"""

from typing import Final

from mypy_extensions import i64

DROP_REASONS: Final = (
    "runt",  # shorter than an Ethernet header, or a length prefix of 0
    "bad_source",  # source address with the group bit, or zero
    "bad_tag",  # 802.1Q tag cut off, or VID 4095
    "reserved",  # to 01-80-C2-00-00-01 … 0F, which a bridge does not forward
    "same_port",  # the destination is behind the port the frame came from
    "no_destination",  # to be flooded, but there is no other port in its VLAN
    "queue_full",  # the egress queue has reached its bound
    "port_down",  # was queued when the port lost its link; or came in, or was to leave, by a port that is down
    "too_long",  # longer than the port's link can carry, or than its max_frame
    "unreachable",  # the system would not send it
    "stranger",  # from an address that has no port
    "vlan",  # of a VLAN that the port it came in by, or the one it is for, does not carry
    "isolated",  # from an isolated port, for another one
    "mirror",  # came in by a mirror port
    "rate_limit",  # more than the port may bring
    "storm",  # more broadcast, multicast or unknown unicast than the port may bring
    "spoofed_mac",  # source address not in allow_mac
    "spoofed_ip",  # ARP or neighbour discovery claims an address not in allow_ip
    "dhcp_server",  # a DHCP server's message, where there is to be none
    "router",  # a router's advertisement or redirect, where there is to be none
    "locked",  # source address not known on a locked port
    "max_macs",  # one source address more than the port may have
    "sticky",  # source address that stays on another port
    "partition",  # for a port on another island of a partition
    "bad_offload",  # its checksum or segmentation is left to do, and it is not what it says
    "bad_header",  # its tunnel's header is cut off, or no data packet's
    "other_tunnel",  # of another VNI or session
    "bad_cookie",  # of its tunnel's session, with another cookie
    "probe",  # one of our own that look for loops, which came back
    "loop",  # came in, or was to leave, by a port that is blocked, as there is a loop
)
RUNT: Final = 0
BAD_SOURCE: Final = 1
BAD_TAG: Final = 2
RESERVED: Final = 3
SAME_PORT: Final = 4
NO_DESTINATION: Final = 5
QUEUE_FULL: Final = 6
PORT_DOWN: Final = 7
TOO_LONG: Final = 8
UNREACHABLE: Final = 9
STRANGER: Final = 10
VLAN: Final = 11
ISOLATED: Final = 12
MIRROR: Final = 13
RATE_LIMIT: Final = 14
STORM: Final = 15
SPOOFED_MAC: Final = 16
SPOOFED_IP: Final = 17
DHCP_SERVER: Final = 18
ROUTER: Final = 19
LOCKED: Final = 20
MAX_MACS: Final = 21
STICKY: Final = 22
PARTITION: Final = 23
BAD_OFFLOAD: Final = 24
BAD_HEADER: Final = 25
OTHER_TUNNEL: Final = 26
BAD_COOKIE: Final = 27
PROBE: Final = 28
LOOP: Final = 29
DROP_REASON_COUNT: Final = 30

PASSED: Final = -1  # no reason to drop it


def refuse(reason: i64) -> i64:
    """The verdict that drops a frame; the same again gives the reason."""
    return -1 - reason
