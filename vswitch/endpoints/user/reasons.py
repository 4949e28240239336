"""Why a user network drops frames, in words, as those of the switch have them (ports/reasons.py)."""

from vswitch.ports.reasons import Reason

REASONS = {
    "short": Reason("they are shorter than an Ethernet header", "look at what the guest's driver sends"),
    "malformed": Reason(
        "an ARP, IP, UDP, DHCP, DNS or TFTP message in them cannot be read, or says another sender",
        "look at what the guest sends: vswitch capture",
    ),
    "protocol": Reason(
        "they are neither ARP nor IP, of a version the network is without, or for the gateway by what passes no NAT",
        "nothing, if guests speak that among each other",
        usual=True,
    ),
    "crowded": Reason(
        "more DHCP messages, DNS queries or connections for these wait than may",
        "look which guest asks so much, and whether this machine's name servers answer",
    ),
    "timeout": Reason(
        "a DNS query by TCP was not answered in time, or the answer not taken",
        "look whether this machine's name servers answer",
    ),
    "failed": Reason("they met a fault of this program", "report what the log says of it"),
    "not_routed": Reason(
        "they are for the gateway to pass on, but to an address of this network, of this machine or of a group",
        "look at the guest's routes and netmask",
    ),
    "fragments": Reason(
        "they are fragments that overlap, whose rest has not come, or with which too many wait",
        "have the guest send smaller packets",
    ),
    "foreign_source": Reason(
        "they come from an address that is another guest's, the gateway's, or not of this network",
        "have the guest ask for its address by DHCP",
    ),
    "host_access": Reason(
        "they are for a service of this machine, which guests do not reach",
        "set host_access=yes if they may",
        usual=True,
    ),
    "restricted": Reason(
        "they are for the outside, which restrict=yes or internet=no closes", "leave that out", usual=True
    ),
    "denied": Reason(
        "they are for what allow= does not name, or deny= does", "look at vswitch events, and change these", usual=True
    ),
    "connections": Reason(
        "the guest, or all of them, have as many connections as they may", "look what opens so many in it"
    ),
    "queue_full": Reason(
        "the switch takes frames more slowly than this network sends them", "nothing, if it is rare: TCP sends again"
    ),
}
