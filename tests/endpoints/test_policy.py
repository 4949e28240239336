"""The policy of a port: how it is written in a URL and in a table."""

from contextlib import closing
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.endpoints.test_url import TOML_VALUES, read, refused
from vswitch import InputError
from vswitch.endpoints.url import EndpointConfig, parse
from vswitch.ports.policy import ALLOWED_MAX, PARAMETERS, Policy, StaticMac
from vswitch.ports.ports import Ports
from vswitch.units import Rate

PORT = "unix:///run/vm.sock?single"  # an endpoint that is itself the port may have any policy
LISTENER = "unix:///run/lan.sock"
ONE, TWO = 0x5254_0012_3456, 0x5254_0012_3457
ONE_TEXT, TWO_TEXT = "52:54:00:12:34:56", "52:54:00:12:34:57"
THOUSANDS = ",".join(f"52:54:00:00:{number >> 8:02x}:{number & 255:02x}" for number in range(ALLOWED_MAX + 1))


def policy(query: str = "") -> Policy:
    return parse(f"{PORT}&{query}").policy


WRITTEN: list[tuple[str, dict[str, Any], dict[str, Any]]] = [  # in a URL, in a table, what it means
    ("up=no", {"up": False}, {"up": False}),
    ("vlan=10", {"vlan": 10}, {"vlan": 10}),
    ("vlan=4094", {"vlan": "4094"}, {"vlan": 4094}),
    ("trunk=10", {"trunk": 10}, {"trunk": (10,)}),
    ("trunk=20,10,20", {"trunk": [20, 10, 20]}, {"trunk": (10, 20)}),
    ("trunk=10&trunk=20&trunk=30,40", {"trunk": [10, "20", "30,40"]}, {"trunk": (10, 20, 30, 40)}),
    ("trunk=1,20", {"trunk": [1, 20]}, {"trunk": (1, 20)}),
    ("trunk=all", {"trunk": "all"}, {"trunk": "all"}),
    ("trunk=10&native=1", {"trunk": [10], "native": 1}, {"trunk": (10,), "native": 1}),
    ("qinq=100", {"qinq": 100}, {"qinq": 100, "tpid": 0x88A8}),
    ("qinq=100&tpid=0x9100", {"qinq": 100, "tpid": 0x9100}, {"qinq": 100, "tpid": 0x9100}),
    ("qinq=100&tpid=0x88A8", {"qinq": 100, "tpid": "0x88a8"}, {"qinq": 100, "tpid": 0x88A8}),
    ("reserved=forward", {"reserved": "forward"}, {"reserved": "forward"}),
    ("sources=any", {"sources": "any"}, {"sources": "any"}),
    ("isolated", {"isolated": True}, {"isolated": True}),
    ("loop=warn&isolated", {"loop": "warn", "isolated": True}, {"loop": "warn", "isolated": True}),
    ("max_frame=1518", {"max_frame": 1518}, {"max_frame": 1518}),
    ("max_frame=1518B", {"max_frame": "1.518KB"}, {"max_frame": 1518}),
    ("pad=yes", {"pad": True}, {"pad": True}),
    ("rate=10Mbit/s", {"rate": "10Mbit/s"}, {"rate": Rate(0, 10_000_000)}),
    ("rate=1kfps,10Mbit/s", {"rate": ["10Mbit/s", "1000fps"]}, {"rate": Rate(1000, 10_000_000)}),
    ("rate=1fps&rate=1bit/s", {"rate": ["1fps", "1bit/s"]}, {"rate": Rate(1, 1)}),
    ("storm_broadcast=5fps", {"storm_broadcast": "5fps"}, {"storm_broadcast": Rate(5, 0)}),
    ("storm_multicast=5fps", {"storm_multicast": ["5fps"]}, {"storm_multicast": Rate(5, 0)}),
    ("storm_unknown=5fps,1kbit/s", {"storm_unknown": "5fps,1kbit/s"}, {"storm_unknown": Rate(5, 1000)}),
    ("rate=5fps&burst=20ms", {"rate": "5fps", "burst": "20ms"}, {"rate": Rate(5, 0), "burst": 0.02}),
    ("mirror_of=web", {"mirror_of": "web"}, {"mirror_of": ("web",)}),
    ("mirror_of=web,lab.1,web", {"mirror_of": ["web", "lab.1"]}, {"mirror_of": ("web", "lab.1")}),
    ("mirror_of=web&mirror_of=lab", {"mirror_of": ["web", "lab"]}, {"mirror_of": ("web", "lab")}),
    ("mirror_of=web&mirror=in", {"mirror_of": "web", "mirror": "in"}, {"mirror_of": ("web",), "mirror": "in"}),
    (f"static={ONE_TEXT}", {"static": ONE_TEXT}, {"static": (StaticMac(ONE, None),)}),
    (
        f"trunk=10&static={ONE_TEXT}@10&static={TWO_TEXT}@10",
        {"trunk": 10, "static": [f"{ONE_TEXT}@10", f"{TWO_TEXT}@10"]},
        {"trunk": (10,), "static": (StaticMac(ONE, 10), StaticMac(TWO, 10))},
    ),
    ("sticky", {"sticky": True}, {"sticky": True}),
    ("locked=on", {"locked": True}, {"locked": True}),
    ("loop=warn", {"loop": "warn"}, {"loop": "warn"}),
    ("max_macs=1", {"max_macs": 1}, {"max_macs": 1}),
    (f"allow_mac={ONE_TEXT},52-54-00-12-34-57", {"allow_mac": [ONE_TEXT, TWO_TEXT]}, {"allow_mac": (ONE, TWO)}),
    (
        "allow_ip=10.0.0.5&allow_ip=fd00::5",
        {"allow_ip": ["10.0.0.5", "fd00:0::5"]},
        {"allow_ip": (ip_address("10.0.0.5"), ip_address("fd00::5"))},
    ),
    ("dhcp_server=no", {"dhcp_server": False}, {"dhcp_server": False}),
    ("router=no", {"router": False}, {"router": False}),
    ("up&isolated=no&trunk=all&reserved=drop", {"up": True, "trunk": "all"}, {"trunk": "all"}),
]
QUERIES = [query for query, _, _ in WRITTEN]


@pytest.mark.parametrize(("query", "table", "fields"), WRITTEN, ids=QUERIES)
def test_a_policy_is_what_is_written(query: str, table: dict[str, Any], fields: dict[str, Any]) -> None:
    assert policy(query) == Policy(**fields)
    assert parse(PORT, table).policy == Policy(**fields)


def test_every_parameter_is_written_above() -> None:
    assert {name for _, table, _ in WRITTEN for name in table} == set(PARAMETERS) == set(Policy.__struct_fields__)


def test_every_kind_of_endpoint_takes_a_policy() -> None:
    targets = {"tcp": "127.0.0.1:1", "mcast": "230.0.0.1:1", "udp": "127.0.0.1:1", "fd": "3"}
    for scheme in ("tcp", "unix", "mcast", "udp", "unixgram", "vde", "tap", "fd"):
        assert parse(f"{scheme}://{targets.get(scheme, 'lan')}?vlan=10").policy == Policy(vlan=10)


@pytest.mark.parametrize(
    ("query", "name", "said"),
    [
        ("up=maybe", "up", "neither yes nor no"),
        ("vlan=0", "vlan", "from 1 to 4094, which VLANs have"),
        ("vlan=4095", "vlan", "from 1 to 4094"),
        ("vlan=ten", "vlan", "from 1 to 4094"),
        ("vlan=10,20", "vlan", "from 1 to 4094"),
        ("vlan=-1", "vlan", "from 1 to 4094"),
        ("vlan", "vlan", "from 1 to 4094"),
        ("vlan=10&vlan=20", "vlan", "twice"),
        ("trunk=", "trunk", "write it like 10,20 or all"),
        ("trunk", "trunk", "write it like 10,20 or all"),
        ("trunk=10,", "trunk", "write it like 10,20 or all"),
        ("trunk=10&trunk", "trunk", "write it like 10,20 or all"),
        ("trunk&trunk=10", "trunk", "write it like 10,20 or all"),
        ("trunk=10-20", "trunk", "from 1 to 4094"),
        ("trunk=0", "trunk", "from 1 to 4094"),
        ("trunk=10,4095", "trunk", "from 1 to 4094"),
        ("trunk=10,all", "trunk", "alone"),
        ("native=10", "native", "goes with trunk"),
        ("vlan=10&native=10", "native", "goes with trunk"),
        ("trunk=10&native=0", "native", "from 1 to 4094"),
        ("vlan=10&trunk=10", "vlan and trunk", "do not go together"),
        ("qinq=10&vlan=10", "vlan and qinq", "do not go together"),
        ("trunk=10&qinq=10", "trunk and qinq", "do not go together"),
        ("qinq=0", "qinq", "from 1 to 4094"),
        ("tpid=0x9100", "tpid", "goes with qinq"),
        ("vlan=10&tpid=0x9100", "tpid", "goes with qinq"),
        ("qinq=10&tpid=0x0800", "tpid", "there are 0x8100, 0x88a8"),
        ("qinq=10&tpid=0x0806", "tpid", "there are 0x8100, 0x88a8"),
        ("qinq=10&tpid=0x86dd", "tpid", "there are 0x8100, 0x88a8"),
        ("qinq=10&tpid=0x05ff", "tpid", "there are 0x8100, 0x88a8"),
        ("qinq=10&tpid=9100", "tpid", "there are 0x8100, 0x88a8"),
        ("qinq=10&tpid", "tpid", "there are 0x8100, 0x88a8"),
        ("reserved=maybe", "reserved", "drop, forward"),
        ("reserved", "reserved", "drop, forward"),
        ("isolated=1", "isolated", "neither yes nor no"),
        ("max_frame=10", "max_frame", "60 to 69632 bytes; write one like 1518"),
        ("max_frame=59B", "max_frame", "60 to 69632 bytes; write one like 1518"),
        ("max_frame=69633", "max_frame", "60 to 69632 bytes; write one like 1518"),
        ("max_frame=1MiB", "max_frame", "60 to 69632 bytes; write one like 1518"),
        ("max_frame=long", "max_frame", "one like 1518 or 9000B"),
        ("pad=60", "pad", "neither yes nor no"),
        ("rate=1000", "rate", "has no unit; write 1000Mbit/s"),
        ("rate=10MiB", "rate", "units: fps, kfps"),
        ("rate=fast", "rate", "one like 10Mbit/s"),
        ("rate", "rate", "like 1000fps,10Mbit/s"),
        ("rate=0fps", "rate", "out of range; 1bit/s or 1fps"),
        ("rate=" + "9" * 400 + "fps", "rate", "out of range"),
        ("rate=1fps,2fps", "rate", "two rates of frames"),
        ("rate=1bit/s&rate=1Gbit/s", "rate", "two rates of bits"),
        ("storm_broadcast=10", "storm_broadcast", "has no unit"),
        ("storm_multicast=10", "storm_multicast", "has no unit"),
        ("storm_unknown=10", "storm_unknown", "has no unit"),
        ("burst=20ms", "burst", "goes with rate or storm_broadcast or"),
        ("rate=1fps&burst=20", "burst", "write 20s"),
        ("rate=1fps&burst=0.5ms", "burst", "1ms to 60s"),
        ("rate=1fps&burst=61s", "burst", "1ms to 60s"),
        ("rate=1fps&burst", "burst", "like 100ms"),
        ("mirror_of=", "mirror_of", "like web,lab.1"),
        ("mirror_of", "mirror_of", "like web,lab.1"),
        ("mirror_of=web&vlan=10", "vlan and mirror_of", "only sends copies"),
        ("mirror_of=web&rate=1fps", "rate and mirror_of", "only sends copies"),
        ("mirror=in", "mirror", "goes with mirror_of"),
        ("mirror_of=web&mirror=up", "mirror", "in, out, both"),
        ("static=vm", "static", f"like {ONE_TEXT}"),
        (f"static={ONE_TEXT}@0", "static", "from 1 to 4094"),
        (f"static={ONE_TEXT}@", "static", "from 1 to 4094"),
        ("static=ff:ff:ff:ff:ff:ff", "static", "not one station's address"),
        (f"vlan=10&static={ONE_TEXT}@20", "static", "does not carry VLAN 20"),
        (f"trunk=10&static={ONE_TEXT}@20", "static", "does not carry VLAN 20"),
        (f"qinq=10&static={ONE_TEXT}@20", "static", "does not carry VLAN 20"),
        (f"trunk=10&static={ONE_TEXT}", "static", "52:54:00:12:34:56@10"),
        ("sticky=always", "sticky", "neither yes nor no"),
        ("locked=2", "locked", "neither yes nor no"),
        ("max_macs=0", "max_macs", "from 1 to 1048576"),
        ("max_macs=many", "max_macs", "from 1 to 1048576"),
        ("max_macs", "max_macs", "from 1 to 1048576"),
        ("allow_mac=01:00:5e:00:00:01", "allow_mac", "not one station's address"),
        ("allow_mac=00:00:00:00:00:00", "allow_mac", "not one station's address"),
        ("allow_mac=5254.0012.3456", "allow_mac", f"like {ONE_TEXT}"),
        ("allow_mac=52:54-00:12-34:56", "allow_mac", f"like {ONE_TEXT}"),
        (f"allow_mac={THOUSANDS}", "allow_mac", "at most 1024"),
        ("allow_mac", "allow_mac", f"like {ONE_TEXT}"),
        ("allow_ip=ten", "allow_ip", "like 10.0.0.5"),
        ("allow_ip=10.0.0.0/24", "allow_ip", "like 10.0.0.5"),
        ("allow_ip=10.0.0.5,", "allow_ip", "like 10.0.0.5"),
        ("dhcp_server=10.0.0.1", "dhcp_server", "neither yes nor no"),
        ("router=", "router", "neither yes nor no"),
    ],
    ids=lambda text: text[:40],
)
def test_what_is_written_wrongly_is_answered_with_what_would_be_right(query: str, name: str, said: str) -> None:
    message = refused(f"{PORT}&{query}").removeprefix(f"{PORT}&{query}: ")
    assert name in message
    assert said in message.replace(name, "", 1)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"up": 1}, "up: 1 is neither yes nor no"),
        ({"vlan": True}, "vlan: needs a number from 1"),
        ({"vlan": 10.0}, "vlan: 10.0 is not a number from 1"),
        ({"vlan": [10]}, "vlan: [10] is not a number from 1"),
        ({"trunk": []}, "trunk: needs a list; write it like 10,20 or all"),
        ({"trunk": [10, 0]}, "trunk: 0 is not a number from 1"),
        ({"trunk": [True]}, "trunk: needs a list"),
        ({"trunk": [["10"]]}, "trunk: ['10'] is not a number from 1"),
        ({"qinq": 10, "tpid": True}, "tpid: nothing is not a tag's EtherType"),
        ({"qinq": 10, "tpid": 500}, "tpid: 500 is not a tag's EtherType; there are 0x8100, 0x88a8"),
        ({"reserved": ["drop"]}, "reserved: ['drop'] is none of drop, forward"),
        ({"max_frame": 1500.0}, "max_frame: 1500.0 is not a length"),
        ({"rate": 1000}, "rate: needs a text; write it like 1000fps or 10Mbit/s"),
        ({"rate": "1fps", "burst": 1}, "burst: needs a text; write it like 100ms"),
        ({"mirror_of": [5]}, "mirror_of: needs a text; write it like web,lab.1"),
        ({"static": [5]}, "static: needs a text"),
        ({"allow_mac": [5]}, "allow_mac: 5 is not a MAC address"),
        ({"allow_ip": [5]}, "allow_ip: 5 is not an IP address"),
        ({"max_macs": 1.5}, "max_macs: 1.5 is not a number from 1"),
    ],
)
def test_a_value_of_another_type_is_answered_with_the_likely_form(table: dict[str, Any], said: str) -> None:
    assert said in refused(PORT, table)


def test_a_number_too_long_to_be_written_is_just_wrong() -> None:
    assert "vlan" in refused(PORT, {"vlan": 1 << 20000})  # TOML may have it, in hexadecimal digits


def test_a_station_is_behind_one_port_so_a_listener_has_no_static_ones() -> None:
    for scheme in ("unix", "unixgram", "vde"):
        assert "add single=yes" in refused(f"{scheme}://lan?static={ONE_TEXT}")
    for url in (f"{LISTENER}?single", f"{LISTENER}?connect", "unixgram://a?remote=b", "vde://lan?connect", "tap://a?"):
        assert parse(f"{url}&static={ONE_TEXT}").policy.static == (StaticMac(ONE, None),)


NAMES = st.sampled_from(list(PARAMETERS))
TEXTS = st.sampled_from([query.split("&")[0].partition("=")[2] for query in QUERIES]) | st.text(max_size=4)
PARTS = st.sampled_from([*QUERIES, "mirror=both", "burst=1s"]) | st.builds("{}={}".format, NAMES, TEXTS) | NAMES
TABLES = st.dictionaries(NAMES, TOML_VALUES | TEXTS | st.lists(TEXTS | st.integers(0, 4095), max_size=3), max_size=3)


@given(st.lists(PARTS, max_size=3).map("&".join), st.just({}) | TABLES)
@example("trunk&trunk=10", {})
@example("rate=" + "9" * 400 + "fps", {})
def test_any_text_and_any_table_is_an_error_of_one_printable_line_or_a_policy_that_a_port_can_have(
    query: str, table: dict[str, Any]
) -> None:
    found = read(f"{PORT}&{query}", table)
    if isinstance(found, InputError):
        assert str(found).isprintable()
    else:
        with closing(Ports(table_size=64, ageing_s=300)) as ports:
            ports.remove(ports.add("vm", "vm", found))


@given(NAMES, TEXTS)
def test_a_table_entry_means_what_the_same_text_means_in_a_url(name: str, text: str) -> None:
    escaped = "".join(f"%{byte:02x}" for byte in text.encode())
    in_table, in_url = read(PORT, {name: text}), read(f"{PORT}&{name}={escaped}")
    if isinstance(in_table, EndpointConfig):
        assert in_url == in_table
    else:
        assert isinstance(in_url, InputError)
