"""Why frames are dropped, in words: what each reason means, and what to do where it is not meant to be."""

from typing import NamedTuple


class Reason(NamedTuple):
    """`usual`: it is part of how LANs work, or what the owner asked for, and no sign that anything is wrong."""

    about: str
    advice: str
    usual: bool = False


REASONS = {
    "runt": Reason("they are shorter than an Ethernet header", "look at what the guest's driver sends"),
    "bad_source": Reason(
        "they come from a group address or zero, which can never be answered",
        "give the guest another address, or the port sources=any",
    ),
    "bad_tag": Reason("their 802.1Q tag is cut off, or says VID 4095", "look at what the guest's driver sends"),
    "reserved": Reason(
        "they are for an address that bridges do not forward (01:80:c2:00:00:01 … 0f)",
        "if they are to pass, as LACP, LLDP and 802.1X need it: reserved=forward",
        usual=True,
    ),
    "same_port": Reason(
        "their destination is behind the port they came from",
        "nothing; if that is not so, the station has moved and not said anything there: vswitch mac del MAC",
        usual=True,
    ),
    "no_destination": Reason(
        "no other port is up in their VLAN",
        "plug in another guest, or look whether the ports have the same VLAN: vswitch vlans",
        usual=True,
    ),
    "queue_full": Reason(
        "its guest reads more slowly than others send", "slow them (rate=), or give it a larger queue="
    ),
    "port_down": Reason(
        "the port they were for, or came from, was down",
        "plug the guest in, or let it: vswitch port up PORT",
        usual=True,
    ),
    "too_long": Reason(
        "they are longer than the port carries", "make the guests' MTU smaller, or the port's max_frame="
    ),
    "unreachable": Reason("the system would not send them", "look whether the peer is there, and reachable"),
    "stranger": Reason("they came from an address that has no port", "have each guest send from the address it is to"),
    "vlan": Reason(
        "the port they came in by, or the one they are for, does not carry their VLAN",
        "give both ports the same VLAN: vlan=, trunk=, native=",
    ),
    "isolated": Reason("both ports are isolated from each other", "set isolated=no on one of them", usual=True),
    "mirror": Reason("they came in by a mirror, which only sends copies", "vswitch mirror PORT --off", usual=True),
    "rate_limit": Reason("they are more than the port may bring", "raise rate=, or burst=", usual=True),
    "storm": Reason(
        "they are more broadcast, multicast or unknown unicast than the port may bring",
        "look for a loop, or raise storm_…=",
    ),
    "spoofed_mac": Reason("their source address is not in allow_mac", "add it there, or give the guest one of those"),
    "spoofed_ip": Reason(
        "they claim an IP address that is not in allow_ip", "add it there, or give the guest one of those"
    ),
    "dhcp_server": Reason("a DHCP server answers by a port that is to have none", "set dhcp_server=yes if it may"),
    "router": Reason("a router speaks by a port that is to have none", "set router=yes if it may"),
    "locked": Reason(
        "the port is locked, and does not know their source address", "add it to static=, or set locked=no"
    ),
    "max_macs": Reason("they have one source address more than the port may have", "raise max_macs="),
    "sticky": Reason(
        "their source address belongs to another port for good, or as long as a forward leads there",
        "vswitch mac del MAC, if the guest has moved here; if a forward leads to it, vswitch port down THE-OTHER-PORT",
    ),
    "partition": Reason(
        "a partition lies between the two ports, or both lead to other ends of one tunnel, which reach each other",
        "vswitch heal, if it is a partition",
        usual=True,
    ),
    "bad_offload": Reason(
        "their checksum or segmentation is left to do, and they are not what they say", "look at the sender's driver"
    ),
    "bad_header": Reason(
        "what comes by the tunnel has no data packet's header, or a cut one",
        "look what is at the other end, and whether it has the same kind of tunnel, cookies, counter= and offset=",
    ),
    "other_tunnel": Reason(
        "what comes by the tunnel is of another VNI or session", "give both ends the same vni=, or session="
    ),
    "bad_cookie": Reason(
        "what comes by the tunnel has another cookie", "give rxcookie= the txcookie that the other end has"
    ),
    "probe": Reason(
        "they are the switch's own, which look for loops, and have come back",
        "look which ports lead to one LAN: vswitch events --code loop",
        usual=True,
    ),
    "loop": Reason(
        "the port is blocked, as what is sent by another one comes back by it",
        "take out one of the links that lead to one LAN: vswitch events --code loop",
        usual=True,
    ),
}
