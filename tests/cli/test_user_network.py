"""`vswitch forward`, `forwards`, `leases`, `nat`, `hosts` and `ssh`."""

import json
from collections.abc import AsyncIterator

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.l2 import Ether

from tests.cli.program import Home
from tests.cli.test_live import ok, refused
from tests.endpoints.user_guest import GATEWAY, Guest, need_libslirp
from tests.peers import Peer

MAC = "52:54:00:00:00:0a"


@pytest.fixture
async def web(home: Home) -> AsyncIterator[Guest]:
    """A guest, called so, of a switch that runs."""
    need_libslirp()
    url = f"unix://{home.root}/lan.sock"
    with home.serve(f"{url}?name=lan", "user://10.0.2.0/24?name=net"):
        guest = Guest(await Peer.connected_to(url), MAC)
        await guest.lease("web")
        yield guest
        guest.peer.close()


async def test_what_a_user_network_says_of_its_guests(home: Home, web: Guest) -> None:
    assert [line.split() for line in ok(home, "leases")] == [
        ["IP", "NAME", "MAC", "PORT", "NETWORK", "LEFT"],
        ["10.0.2.15", "web", MAC, "lan.1", "net", *["23h", "59min"]],
    ]
    (lease,) = json.loads("".join(ok(home, "leases", "--json")))
    assert (lease["ip"], lease["name"], lease["domain"]) == ("10.0.2.15", "web", "lan")
    assert ok(home, "hosts") == ["10.0.2.15\tweb.lan web"]


async def test_what_passes_the_nat_and_why_the_rest_does_not(home: Home, web: Guest) -> None:
    blocked = IP(src=web.ip, dst="10.0.2.2") / UDP(sport=1000, dport=9)
    ping = IP(src=web.ip, dst="10.0.2.2") / ICMP(id=7)
    for packet in (ping, blocked):
        await web.send(Ether(src=MAC, dst=GATEWAY) / packet)
    await web.ping("10.0.2.2")
    lines = ok(home, "nat")
    assert lines[0].split("  ")[0] == "IP"
    (ip, name, mac, out_frames, out_bytes, in_frames, in_bytes, _, *dropped) = lines[1].split()
    assert (ip, name, mac, out_frames, in_frames) == ("10.0.2.15", "web", MAC, "2", "2")
    assert (out_bytes, in_bytes, dropped) == (*[f"{2 * len(Ether() / ping)}"] * 2, ["1", "host_access", "net"])
    assert [" ".join(line.split()) for line in lines[2:5]] == [
        "",
        "DROPPED FRAMES NETWORK BECAUSE",
        "host_access 1 net they are for a service of this machine, which guests do not reach;"
        " set host_access=yes if they may",
    ]
    assert lines[6].startswith("net: requests served: 2 DHCP, 0 DNS, 0 TFTP; counted for ")
    (net,) = json.loads("".join(ok(home, "nat", "--json")))
    assert net["guests"][0]["drops"] == {"host_access": 1}


async def test_forwards_come_and_go(home: Home, web: Guest) -> None:
    assert [line.split()[0] for line in ok(home, "forwards")] == ["FORWARD"]
    (made,) = ok(home, "forward", "add", "tcp::0-web:22")
    (waits,) = ok(home, "forward", "add", "tcp::0-db:22")
    assert [" ".join(line.split()) for line in ok(home, "forwards")[1:]] == [
        f"{made} 10.0.2.15 net",
        f"{waits} nowhere yet: that guest has no lease net",
    ]
    here = made.partition("-")[0]
    assert ok(home, "forward", "del", here.replace("127.0.0.1", "")) == []
    assert [found["forward"] for found in json.loads("".join(ok(home, "forwards", "--json")))] == [waits]
    assert refused(home, 2, "forward", "del", here) == f"there is no forward {here!r}; there are {waits}"
    assert refused(home, 2, "forward", "add", "tcp:22").startswith("'tcp:22' is no forward; write it like")
    assert 'url = "user://10.0.2.0/24?hostfwd=tcp:127.0.0.1:0-db:22"' in ok(home, "save")


async def test_ssh_goes_by_a_forward_that_it_makes_once(home: Home, web: Guest) -> None:
    program = home.programs / "ssh"
    program.write_text('#!/bin/sh\nfor word in "$@"; do echo "$word"; done\n')
    program.chmod(0o755)
    words = ok(home, "ssh", "root@web", "-v", "uptime")
    (forward,) = json.loads("".join(ok(home, "forwards", "--json")))
    port = forward["forward"].split("-")[0].rpartition(":")[2]
    assert words == ["-p", port, "-o", "HostKeyAlias=web.lan", "root@127.0.0.1", "-v", "uptime"]
    for name in ("web", "web.lan", "10.0.2.15", "lan.1"):
        assert ok(home, "ssh", name)[1] == port
    assert refused(home, 2, "ssh", "db") == "no guest 'db' has a lease; those that have one are web"


async def test_without_ssh_it_says_what_to_install(home: Home, web: Guest) -> None:
    assert refused(home, 1, "ssh", "web") == "ssh is missing; install it (Debian and Ubuntu: package openssh-client)"
