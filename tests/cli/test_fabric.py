"""`vswitch fabric`: what it prints for a host, what it finds wrong with one, and what it shows of FRR's JSON."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cli.program import Home, is_one_line
from vswitch.cli.fabric import configuration, description, findings, frr, links
from vswitch.cli.fabric.description import Host
from vswitch.cli.fabric.findings import Finding
from vswitch.errors import InputError, RefusedError

MESH = """
[fabric]
as = 64512
vni = [100, 200]
mtu = 9000
hold = "30s"

[[host]]
name = "one"
address = "192.0.2.1"
user = "me"

[[host]]
name = "two"
address = "192.0.2.2"

[[host]]
name = "three"
address = "192.0.2.3"
"""
REFLECTED = MESH.replace('"192.0.2.1"', '"192.0.2.1"\nreflector = true').replace(
    '"192.0.2.2"', '"192.0.2.2"\nreflector = true'
)

# As FRR 8.4.4 and iproute2 6.1 have answered in a fabric of tools/fabric, cut to what is of interest.
SUMMARY = b"""{"routerId":"192.0.2.1","as":65000,"peerCount":2,"peers":{
  "192.0.2.2":{"hostname":"h2","remoteAs":65000,"peerUptime":"00:00:02","peerUptimeMsec":2000,"pfxRcd":1,
    "state":"Established","peerState":"OK","idType":"ipv4"},
  "192.0.2.3":{"remoteAs":65000,"peerUptime":"never","peerUptimeMsec":0,"pfxRcd":0,"state":"Active"}},
  "failedPeers":1,"totalPeers":2,"bestPath":{"multiPathRelax":"false"}}"""
VNIS = b"""{"100":{"vni":100,"type":"L2","vxlanIf":"vx100","numMacs":2,"numArpNd":0,"numRemoteVteps":1,
  "tenantVrf":"default","remoteVteps":["192.0.2.2"]}}"""
MACS = b"""{"100":{"numMacs":2,"macs":{
  "52:54:00:00:00:0b":{"type":"remote","remoteVtep":"192.0.2.2","localSequence":0,"remoteSequence":3,
    "detectionCount":0,"isDuplicate":false},
  "52:54:00:00:00:0a":{"type":"local","intf":"tap100","localSequence":0,"remoteSequence":7,
    "detectionCount":6,"isDuplicate":true}}}}"""
LINKS: list[dict[str, Any]] = [
    {"ifname": "eth0", "flags": ["BROADCAST", "UP", "LOWER_UP"], "mtu": 1500, "linkinfo": {"info_kind": "veth"}},
    {"ifname": "br100", "flags": ["UP", "LOWER_UP"], "mtu": 1450, "linkinfo": {"info_kind": "bridge", "info_data": {}}},
    {
        "ifname": "vx100",
        "flags": ["UP", "LOWER_UP"],
        "mtu": 1450,
        "master": "br100",
        "linkinfo": {
            "info_kind": "vxlan",
            "info_data": {"id": 100, "local": "192.0.2.1", "port": 4789, "learning": False, "ttl": 0, "df": "unset"},
            "info_slave_kind": "bridge",
            "info_slave_data": {"state": "forwarding", "learning": False},
        },
    },
    {},
    {
        "ifname": "tap100",
        "flags": ["UP", "LOWER_UP"],
        "mtu": 1450,
        "master": "br100",
        "linkinfo": {
            "info_kind": "tun",
            "info_data": {"type": "tap", "persist": True},
            "info_slave_kind": "bridge",
            "info_slave_data": {"state": "forwarding", "learning": True},
        },
    },
]


def host(tmp_path: Path, text: str, name: str) -> Host:
    path = tmp_path / "fabric.toml"
    path.write_text(text)
    return description.read(str(path), name)


def test_without_route_reflectors_everybody_speaks_with_everybody(tmp_path: Path) -> None:
    one = host(tmp_path, MESH, "one")
    assert (one.as_number, one.vnis, one.mtu, one.hold_s, one.user) == (64512, (100, 200), 9000, 30, "me")
    assert list(map(str, one.peers)) == ["192.0.2.2", "192.0.2.3"]
    assert one.clients == ()
    assert host(tmp_path, MESH, "two").user is None


def test_with_route_reflectors_the_others_speak_with_these_only(tmp_path: Path) -> None:
    one, three = host(tmp_path, REFLECTED, "one"), host(tmp_path, REFLECTED, "three")
    assert (list(map(str, one.peers)), list(map(str, one.clients))) == (["192.0.2.2"], ["192.0.2.3"])
    assert (list(map(str, three.peers)), three.clients) == (["192.0.2.1", "192.0.2.2"], ())


@pytest.mark.parametrize(
    ("written", "instead", "said"),
    [
        ("vni = [100, 200]", "vni = [0]", "fabric.toml:4: [fabric] vni: 0 is not a number from 1 to 16777215"),
        ("as = 64512", "as = true", "fabric.toml:3: [fabric] as: "),
        ('"30s"', '"2s"', "fabric.toml:6: [fabric] hold: '2s' is not whole seconds from 3s to 65535s"),
        ("mtu =", "mut =", "fabric.toml:5: [fabric] has an unknown entry 'mut'; did you mean 'mtu'?"),
        ("mtu = 9000", "mtu = 1300", "fabric.toml:5: [fabric] mtu: 1300 is not a number from 1330 to 65535"),
        ('name = "two"', "", "[[host]] 2 has no name"),
        ('"192.0.2.3"', '"192.0.2.2"', "[[host]] 3 is there twice"),
        ('"192.0.2.3"', '"2001:db8::1"', "'2001:db8::1' is no IPv4 address"),
        ('"192.0.2.3"', '"224.0.0.1"', "224.0.0.1 is no host's address"),
        ('"me"', '"me; reboot"', "[[host]] 1 user: 'me; reboot' cannot be a name"),
        ('name = "one"', r'name = "one\nrouter bgp 1"', "cannot be a name"),
        ('name = "two"', 'name = "two"\nreflector = "yes"', "'yes' is neither true nor false"),
    ],
)
def test_what_is_wrong_in_a_description_is_said(tmp_path: Path, written: str, instead: str, said: str) -> None:
    with pytest.raises(InputError) as error:
        host(tmp_path, MESH.replace(written, instead), "one")
    assert said in str(error.value)


def test_a_host_that_is_not_described_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no host 'four'; --host says which of: one, two, three"):
        host(tmp_path, MESH, "four")


def test_each_lan_has_a_bridge_of_its_own(tmp_path: Path) -> None:
    printed = configuration.commands(host(tmp_path, MESH, "one")).splitlines()
    for vni in (100, 200):
        assert [line for line in printed if f"{vni}" in line and line.startswith("ip ")] == [
            f"ip link add br{vni} type bridge mcast_snooping 0",
            f"ip link add vx{vni} type vxlan id {vni} local 192.0.2.1 dstport 4789 nolearning",
            f"ip tuntap add tap{vni} mode tap user me",
            f"ip link set vx{vni} mtu 8950 addrgenmode none master br{vni} up",
            f"ip link set tap{vni} mtu 8950 addrgenmode none master br{vni} up",
            f"ip link set vx{vni} type bridge_slave learning off",
            f"ip link set br{vni} addrgenmode none up",
        ]
        assert f'#   vswitch serve --name lan{vni} tap://tap{vni} "unix://$XDG_RUNTIME_DIR/vswitch/lan{vni}.sock"' in (
            printed
        )


def test_frr_is_told_its_peers(tmp_path: Path) -> None:
    assert configuration.frr_conf(host(tmp_path, REFLECTED, "one")).splitlines() == [
        "frr defaults datacenter",
        "hostname one",
        "!",
        "router bgp 64512",
        " bgp router-id 192.0.2.1",
        " no bgp default ipv4-unicast",
        " neighbor fabric peer-group",
        " neighbor fabric remote-as 64512",
        " neighbor fabric update-source 192.0.2.1",
        " neighbor fabric timers 10 30",
        " neighbor fabric timers connect 5",
        " neighbor 192.0.2.2 peer-group fabric",
        " neighbor clients peer-group",
        " neighbor clients remote-as 64512",
        " neighbor clients update-source 192.0.2.1",
        " neighbor clients timers 10 30",
        " neighbor clients timers connect 5",
        " neighbor 192.0.2.3 peer-group clients",
        " !",
        " address-family l2vpn evpn",
        "  neighbor fabric activate",
        "  neighbor clients activate",
        "  neighbor clients route-reflector-client",
        "  advertise-all-vni",
        " exit-address-family",
        "!",
    ]


def test_options_say_as_much_as_a_file(home: Home) -> None:
    (home.root / "fabric.toml").write_text(MESH)
    said = {"host": "one", "address": "192.0.2.1", "as": "64512", "mtu": "9000", "hold": "30s", "user": "me"}
    options = [word for name, value in said.items() for word in (f"--{name}", value)]
    options += ["--peer", "192.0.2.2", "--peer", "192.0.2.3", "--vni", "100", "--vni", "200"]
    for command in ("commands", "frr"):
        by_options = home.run("fabric", command, *options)
        by_file = home.run("fabric", command, "fabric.toml", "--host", "one")
        assert (by_options.returncode, by_options.stderr) == (0, "")
        assert by_options.stdout == by_file.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["frr"], "say which hosts: a FILE, or --address and each --peer"),
        (["frr", "--address", "192.0.2.1"], "say which hosts"),
        (["commands", "--address", "192.0.2", "--peer", "192.0.2.2"], "'192.0.2' is no IPv4 address"),
        (["commands", "--address", "192.0.2.1", "--peer", "192.0.2.2", "--vni", "x"], "'x' is not a number from 1"),
        (["commands", "fabric.toml", "--mtu", "9000"], "fabric.toml says it all but --host"),
        (["commands", "fabric.toml"], "fabric.toml: No such file"),
    ],
)
def test_what_is_wrong_in_the_options_is_said(home: Home, arguments: list[str], said: str) -> None:
    done = home.run("fabric", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert is_one_line(done.stderr)
    assert said in done.stderr


def there(**changed: dict[str, Any]) -> dict[str, links.Link]:
    """The interfaces of a host, some of them otherwise."""
    return links.by_name(json.dumps([entry | changed.get(entry.get("ifname", ""), {}) for entry in LINKS]).encode())


def linkinfo(name: str, **changed: dict[str, Any]) -> dict[str, Any]:
    (info,) = [entry["linkinfo"] for entry in LINKS if entry.get("ifname") == name]
    return {"linkinfo": {key: value | changed.get(key, {}) if key in changed else value for key, value in info.items()}}


def lan(**changed: dict[str, Any]) -> list[Finding]:
    here = there(**changed)
    return [*findings.of_lan(100, here), *findings.of_mtu(100, here, ["192.0.2.2"], lambda address: "eth0")]


def test_nothing_is_wrong_with_a_host_as_it_should_be() -> None:
    assert lan() == []
    assert findings.vnis_of(there()) == [100]
    assert findings.in_short(100, there()).what == "VNI 100: vx100 and tap100 are in br100; guests have an MTU of 1450"


@pytest.mark.parametrize(
    ("changed", "advice"),
    [
        ({"vx100": linkinfo("vx100", info_data={"learning": True})}, "run: ip link set vx100 type vxlan nolearning"),
        (
            {"vx100": linkinfo("vx100", info_slave_data={"learning": True})},
            "run: ip link set vx100 type bridge_slave learning off",
        ),
        ({"vx100": {"master": None}}, "run: ip link set vx100 master br100"),
        ({"vx100": {"flags": []}}, "run: ip link set vx100 up"),
        ({"br100": {"flags": []}}, "run: ip link set br100 up"),
        ({"tap100": {"flags": ["LOWER_UP"]}}, "run: ip link set tap100 up"),
        ({"tap100": {"master": None}}, "run: ip link set tap100 master br100"),
        ({"tap100": {"flags": ["NO-CARRIER", "UP"]}}, "run: vswitch serve tap://tap100"),
        ({"tap100": {"mtu": 1500}}, "run: ip link set tap100 mtu 1450"),
        ({"eth0": {"mtu": 1400}}, "run: ip link set vx100 mtu 1350, or give eth0 1500"),
        ({"vx100": linkinfo("vx100", info_data={"id": 7})}, "run what this prints: vswitch fabric commands"),
    ],
)
def test_what_is_wrong_with_a_lan_is_found(changed: dict[str, dict[str, Any]], advice: str) -> None:
    (found,) = lan(**changed)
    assert found.advice == advice


def test_a_way_that_is_not_known_says_nothing_of_its_mtu() -> None:
    assert not list(findings.of_mtu(100, there(), ["192.0.2.2", "192.0.2.3"], lambda address: None))


def test_sessions_that_are_not_established_are_found() -> None:
    summary = frr.read(SUMMARY, frr.Summary)
    wanted = [description._address("192.0.2.2"), description._address("192.0.2.9")]
    found = list(findings.of_peers(summary, wanted))
    assert [bool(finding.advice) for finding in found] == [True, False, True]
    assert "192.0.2.9" in found[0].what
    assert found[1].what == "192.0.2.2 (h2) is Established; routes from it: 1"
    assert found[2].what == "192.0.2.3 is Active, not Established"
    assert [finding.what for finding in findings.of_peers(frr.Summary(), ())] == ["bgpd has no EVPN peers"]


def test_a_lan_that_frr_does_not_know_is_found() -> None:
    known = frr.read(VNIS, dict[str, frr.Vni])
    assert not list(findings.of_zebra(100, known))
    assert [finding.what for finding in findings.of_zebra(200, known)] == ["FRR does not know VNI 200"]
    alone = {"100": msgspec.structs.replace(known["100"], remote_vteps=())}
    assert [finding.what for finding in findings.of_zebra(100, alone)] == ["no other host has VNI 100"]


def install_vtysh(home: Home, macs: bytes = MACS, code: int = 0) -> None:
    for word, answer in (("summary", SUMMARY), ("mac", macs), ("vni", VNIS)):
        (home.root / word).write_bytes(answer)
    script = f"""#!/bin/sh
case "$*" in *summary*) f=summary;; *" mac "*) f=mac;; *) f=vni;; esac
while read -r line || [ "$line" ]; do printf '%s\\n' "$line"; done < {home.root}/$f
exit {code}
"""
    (home.programs / "vtysh").write_text(script)
    (home.programs / "vtysh").chmod(0o755)


def test_stations_are_shown_by_host(home: Home) -> None:
    install_vtysh(home)
    shown = home.run("fabric", "show")
    assert (shown.returncode, shown.stderr) == (0, "")
    rows = [line.split() for line in shown.stdout.splitlines()]
    assert ["192.0.2.2", "h2", "Established", "2.0s", "1"] in rows
    assert ["192.0.2.3", "-", "Active", "-", "0"] in rows
    assert ["100", "vx100", "2", "192.0.2.2"] in rows
    assert rows[-2:] == [
        ["52:54:00:00:00:0a", "100", "here", "tap100", "7,", "duplicate"],
        ["52:54:00:00:00:0b", "100", "h2", "-", "3"],
    ]


def test_what_is_shown_is_there_for_programs(home: Home) -> None:
    install_vtysh(home)
    done = home.run("fabric", "show", "--json")
    assert json.loads(done.stdout) == {
        "peers": [
            {"address": "192.0.2.2", "name": "h2", "state": "Established", "up_s": 2, "routes": 1},
            {"address": "192.0.2.3", "name": None, "state": "Active", "up_s": None, "routes": 0},
        ],
        "vnis": [{"vni": 100, "device": "vx100", "macs": 2, "hosts": ["192.0.2.2"]}],
        "macs": [
            {"mac": "52:54:00:00:00:0a", "vni": 100, "host": None, "port": "tap100", "moves": 7, "duplicate": True},
            {"mac": "52:54:00:00:00:0b", "vni": 100, "host": "192.0.2.2", "port": None, "moves": 3, "duplicate": False},
        ],
    }


def test_what_other_hosts_say_does_not_reach_the_terminal_as_it_is(home: Home) -> None:
    install_vtysh(home, MACS.replace(b"tap100", b"\\u001b[2J\\nx"))
    shown = home.run("fabric", "show")
    assert "\x1b" not in shown.stdout
    assert r"\x1b[2J\nx" in shown.stdout


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        (b"bgpd is not running", 1, "bgpd is not running; write bgpd=yes in /etc/frr/daemons"),
        (b"% Unknown command: show evpn", 0, "vtysh answers as no FRR does that is known here"),
        (b'{"peers": []}', 0, "vtysh answers as no FRR does that is known here"),
        (
            b"Exiting: failed to connect to any daemons.",
            1,
            "vtysh: Exiting: failed to connect to any daemons; run this as",
        ),
    ],
)
def test_an_frr_that_does_not_answer_is_said(home: Home, answer: bytes, code: int, said: str) -> None:
    install_vtysh(home, code=code)
    (home.root / "summary").write_bytes(answer)
    done = home.run("fabric", "show")
    assert (done.returncode, done.stdout) == (1, "")
    assert is_one_line(done.stderr)
    assert said in done.stderr


def test_there_may_be_no_frr(home: Home) -> None:
    done = home.run("fabric", "show")
    assert (done.returncode, done.stderr) == (
        1,
        "vswitch: there is no vtysh; install FRRouting (Debian: apt install frr)\n",
    )


@given(st.binary() | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps).map(str.encode))
def test_any_answer_is_read_or_refused(answer: bytes) -> None:
    for kind in (frr.Summary, dict[str, frr.Vni], dict[str, frr.Macs]):
        with suppress(RefusedError):
            frr.read(answer, kind)
