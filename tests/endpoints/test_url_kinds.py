"""The grammar of endpoint URLs, kind by kind: multicast groups, datagrams, VDE, TAP."""

import re
from ipaddress import IPv4Interface, IPv6Interface
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.endpoints.test_url import read, refused
from vswitch.endpoints.interface.options import InterfaceOptions as Options
from vswitch.endpoints.url import (
    IDLE_DEFAULT_S,
    IFACE_DEFAULT,
    LIMIT_DEFAULT,
    SCHEMES,
    VDE_NAME_MAX,
    EndpointConfig,
    parse,
)
from vswitch.ports.policy import Policy
from vswitch.values import UNIX_PATH_MAX

MCAST = "mcast://230.0.0.1:1234"
UDP = "udp://127.0.0.1:1234"
UNIXGRAM = "unixgram:///run/lan.sock"
VHOST = "vhost-user:///run/lan.vhost"
VDE = "vde:///run/lan"
TAP = "tap://tap0"
ADDRESSES = (IPv4Interface("10.0.0.1/24"), IPv6Interface("fd00::1/64"))


@pytest.mark.parametrize(
    ("url", "config"),
    [
        (MCAST, {"scheme": "mcast", "host": "230.0.0.1", "port": 1234}),
        (f"{MCAST}?iface=lo", {"scheme": "mcast", "host": "230.0.0.1", "port": 1234, "iface": "lo"}),
        (f"{MCAST}?iface=10.0.0.1", {"scheme": "mcast", "host": "230.0.0.1", "port": 1234, "iface": "10.0.0.1"}),
        (f"{MCAST}?insecure", {"scheme": "mcast", "host": "230.0.0.1", "port": 1234, "insecure": True}),
        ("mcast://224.0.0.0:1", {"scheme": "mcast", "host": "224.0.0.0", "port": 1}),
        ("mcast://239.255.255.255:65535", {"scheme": "mcast", "host": "239.255.255.255", "port": 65535}),
        (UDP, {"scheme": "udp", "host": "127.0.0.1", "port": 1234}),
        ("udp://[::1]:0", {"scheme": "udp", "host": "::1", "port": 0}),
        (f"{UDP}?remote=lan:5", {"scheme": "udp", "host": "127.0.0.1", "port": 1234, "remote": ("lan", 5)}),
        (f"{UDP}?remote=[::1]:5", {"scheme": "udp", "host": "127.0.0.1", "port": 1234, "remote": ("::1", 5)}),
        (f"{UDP}?limit=5", {"scheme": "udp", "host": "127.0.0.1", "port": 1234, "limit": 5}),
        (f"{UDP}?idle=2s", {"scheme": "udp", "host": "127.0.0.1", "port": 1234, "idle": 2.0}),
        (UNIXGRAM, {"scheme": "unixgram", "path": "/run/lan.sock"}),
        (f"{UNIXGRAM}?remote=/a%26b", {"scheme": "unixgram", "path": "/run/lan.sock", "remote": "/a&b"}),
        (VHOST, {"scheme": "vhost-user", "path": "/run/lan.vhost"}),
        (
            f"{VHOST}?connect&unsealed",
            {"scheme": "vhost-user", "path": "/run/lan.vhost", "connect": True, "unsealed": True},
        ),
        (VDE, {"scheme": "vde", "path": "/run/lan"}),
        (f"{VDE}///", {"scheme": "vde", "path": "/run/lan"}),
        ("vde:///", {"scheme": "vde", "path": "/"}),
        ("vde://lan", {"scheme": "vde", "path": "lan"}),
        (f"{VDE}?connect&port=7", {"scheme": "vde", "path": "/run/lan", "connect": True, "port": 7}),
        (f"{VDE}?mode=0660&dirmode=2750", {"scheme": "vde", "path": "/run/lan", "mode": 0o660, "dirmode": 0o2750}),
        (f"{VDE}?mode=0&group=kvm", {"scheme": "vde", "path": "/run/lan", "mode": 0, "group": "kvm"}),
        (f"{VDE}?mgmt=/m&mgmtmode=666", {"scheme": "vde", "path": "/run/lan", "mgmt": "/m", "mgmtmode": 0o666}),
        (f"{VDE}?mgmt=/m&mgmtgroup=kvm", {"scheme": "vde", "path": "/run/lan", "mgmt": "/m", "mgmtgroup": "kvm"}),
        ("tap://tap0", {"scheme": "tap", "path": "tap0"}),
        ("tap://Tap_0.1-x:y%25", {"scheme": "tap", "path": "Tap_0.1-x:y%"}),
        ("tap://" + "x" * 15, {"scheme": "tap", "path": "x" * 15}),
        (f"{TAP}?mac=52-54-00-00-00-0A", {"scheme": "tap", "path": "tap0", "tap": Options(mac="52:54:00:00:00:0a")}),
        (f"{TAP}?mtu=9000", {"scheme": "tap", "path": "tap0", "tap": Options(mtu=9000)}),
        (f"{TAP}?ip=10.0.0.1/24&ip=fd00::1/64", {"scheme": "tap", "path": "tap0", "tap": Options(ip=ADDRESSES)}),
        (f"{TAP}?ip=10.0.0.1/24,fd00::1/64", {"scheme": "tap", "path": "tap0", "tap": Options(ip=ADDRESSES)}),
        (f"{TAP}?master=br1&up", {"scheme": "tap", "path": "tap0", "tap": Options(master="br1")}),
        (f"{TAP}?ifup=/a%26b&ifdown=c", {"scheme": "tap", "path": "tap0", "tap": Options(ifup="/a&b", ifdown="c")}),
        (f"{TAP}?offload=no", {"scheme": "tap", "path": "tap0", "tap": Options(offload=False)}),
        ("tap://?helper", {"scheme": "tap", "tap": Options(helper="")}),
        ("tap://?helper=yes", {"scheme": "tap", "tap": Options(helper="")}),
        ("tap://?helper=/a&br=lan", {"scheme": "tap", "tap": Options(helper="/a", br="lan")}),
        ("tap://tap0?helper=no", {"scheme": "tap", "path": "tap0"}),
        ("tap://?fd=3&vlan=10", {"scheme": "fd", "fd": 3, "policy": Policy(vlan=10)}),
        ("fd://3?limit=2&idle=10s", {"scheme": "fd", "fd": 3, "limit": 2, "idle": 10.0}),
    ],
)
def test_an_endpoint_is_what_is_written(url: str, config: dict[str, Any]) -> None:
    assert parse(url) == EndpointConfig(**config)


def test_what_is_not_written_has_its_default() -> None:
    assert (parse(UDP).limit, parse(UDP).idle) == (LIMIT_DEFAULT, IDLE_DEFAULT_S) == (256, 300.0)
    assert parse(MCAST).iface == IFACE_DEFAULT == "127.0.0.1"
    assert (parse(VDE).mode, parse(VDE).dirmode, parse(VDE).mgmtmode) == (None, None, 0o600)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mcast://", "host is missing; write mcast://230.0.0.1:1234"),
        ("mcast://230.0.0.1", "write mcast://230.0.0.1:1234"),
        ("mcast://230.0.0.1:0", "write mcast://230.0.0.1:1234"),
        ("mcast://127.0.0.1:1234", "write one like mcast://230.0.0.1:1234"),
        ("mcast://223.255.255.255:1", "no IPv4 multicast group"),
        ("mcast://240.0.0.0:1", "no IPv4 multicast group"),
        ("mcast://[ff02::1]:1234", "no IPv4 multicast group"),
        ("mcast://lan:1234", "no IPv4 multicast group"),
        (f"{MCAST}?iface=", "cannot be an interface's name"),
        (f"{MCAST}?iface=1.2.3", "not an IPv4 address"),
        (f"{MCAST}?iface=256.0.0.1", "not an IPv4 address"),
        (f"{MCAST}?iface=a/b", "cannot be an interface's name"),
        (f"{MCAST}?iface=" + "x" * 16, "cannot be an interface's name"),
        (f"{MCAST}?iface", "write it like 127.0.0.1"),
        (f"{MCAST}?connect", "it takes name, queue, iface, insecure"),
        (f"{MCAST}?remote=1.2.3.4:5", "it takes name, queue, iface, insecure"),
        ("udp://", "write udp://127.0.0.1:1234"),
        ("udp://127.0.0.1", "write udp://127.0.0.1:1234"),
        ("udp://::1:5", "like udp://[::1]:1234"),
        (f"{UDP}?remote=", "host is missing"),
        (f"{UDP}?remote=lan", "write lan:1234"),
        (f"{UDP}?remote=lan:0", "port 0 is nobody's"),
        (f"{UDP}?remote=lan:65536", "65535"),
        (f"{UDP}?remote=::1:5", "like [::1]:1234"),
        (f"{UDP}?remote", "write it like 127.0.0.1:1234"),
        (f"{UDP}?limit=0", "number from 1 to 65535"),
        (f"{UDP}?limit=65536", "number from 1 to 65535"),
        (f"{UDP}?limit=-1", "number from 1 to 65535"),
        (f"{UDP}?limit=many", "number from 1 to 65535"),
        (f"{UDP}?limit=", "number from 1 to 65535"),
        (f"{UDP}?limit", "number from 1 to 65535"),
        (f"{UDP}?limit=" + "9" * 5000, "number from 1 to 65535"),
        (f"{UDP}?limit=²", "number from 1 to 65535"),
        (f"{UDP}?idle=300", "write 300s"),
        (f"{UDP}?idle=10ms", "at least 1s"),
        (f"{UDP}?idle=-1s", "idle"),
        (f"{UDP}?idle=nan", "idle"),
        (f"{UDP}?idle", "write it like 300s"),
        (f"{UDP}?connect", "it takes name, queue, remote, qmp, netdev, limit, idle, any_user, insecure"),
        (f"{UDP}?single", "it takes name, queue, remote"),
        ("unixgram://", "write unixgram:///run/lan.sock"),
        ("unixgram://" + "x" * 108, "107"),
        ("unixgram:///a%00", "NUL"),
        ("unixgram:///a%0a", "control character"),
        (f"{UNIXGRAM}?remote=" + "x" * 108, "107"),
        (f"{UNIXGRAM}?remote=%1b[31m", "control character"),
        (f"{UNIXGRAM}?remote", "write it like /run/guest.sock"),
        (f"{UNIXGRAM}?insecure", "it takes name, queue, remote, qmp, netdev, limit, idle"),
        ("vhost-user://", "write vhost-user:///run/lan.sock"),
        (f"{VHOST}?any_user", "it takes name, queue, connect, single, qmp, netdev, unsealed"),
        ("unix:///run/lan.sock?unsealed", "it takes name, queue, connect, single, qmp, netdev"),
        ("vde://", "write vde:///run/lan.vde"),
        ("vde://" + "x" * (UNIX_PATH_MAX - VDE_NAME_MAX + 1), f"at most {UNIX_PATH_MAX - VDE_NAME_MAX} bytes"),
        ("vde://" + "x" * 500, "bytes"),
        ("vde:///a%00", "NUL"),
        ("vde:///a%1b", "control character"),
        (f"{VDE}?mode=rw", "write them in octal, like 0660"),
        (f"{VDE}?mode=0688", "write them in octal"),
        (f"{VDE}?mode=0o660", "write them in octal"),
        (f"{VDE}?mode=", "write them in octal"),
        (f"{VDE}?mode", "write them in octal"),
        (f"{VDE}?dirmode=77777", "write them in octal"),
        (f"{VDE}?mgmtmode=u+rw", "write them in octal"),
        (f"{VDE}?group", "write it like kvm"),
        (f"{VDE}?mgmt=" + "x" * 108, "107"),
        (f"{VDE}?mgmt", "write it like /run/lan.mgmt"),
        (f"{VDE}?port=7", "port: is for vde:// with connect"),
        (f"{VDE}?port=7&connect=no", "port: is for vde:// with connect"),
        (f"{VDE}?connect&port=0", "number from 1 to 65535"),
        (f"{VDE}?connect&mode=0660", "mode: is for a vde:// without connect"),
        (f"{VDE}?connect&limit=5", "limit: is for a vde:// without connect"),
        (f"{VDE}?single", "it takes name, queue, connect, port, limit, mode"),
        ("tap://", "write tap://tap0"),
        ("tap://" + "x" * 16, "cannot be an interface's name"),
        ("tap://a/b", "cannot be an interface's name"),
        ("tap://a b", "cannot be an interface's name"),
        ("tap://..", "cannot be an interface's name"),
        ("tap://a%00", "cannot be an interface's name"),
        ("tap://é", "cannot be an interface's name"),
        ("tap://tap0?connect", "it takes name, queue"),
        ("tap://?mtu=1400", "write tap://tap0, or tap://?helper"),
        ("tap://tap0?helper", "helper: the device is the helper's, which names it; write tap://?helper&br=br0"),
        ("tap://?helper=qemu", "'qemu' is no path; write helper alone, or one like /usr/lib/qemu/"),
        ("tap://?helper&ip=10.0.0.1/24", "ip: the helper sets its device up like its bridge"),
        ("tap://?helper&mtu=1400", "mtu: the helper sets its device up like its bridge"),
        ("tap://?helper&mac=52:54:00:00:00:01", "mac: the helper sets its device up like its bridge"),
        ("tap://?helper&master=br1", "master: the helper sets its device up like its bridge"),
        ("tap://tap0?br=br1", "br goes with helper; add it, or write master="),
        ("tap://?helper&br=a/b", "br: 'a/b' cannot be an interface's name"),
        ("tap://tap0?mtu=67", "mtu: '67' is not a number from 68 to 65521"),
        ("tap://tap0?mtu=65522", "mtu: '65522' is not a number from 68 to 65521"),
        ("tap://tap0?mtu=1279&ip=fd00::1/64", "mtu: IPv6 takes 1280 at least"),
        ("tap://tap0?mac=ff:ff:ff:ff:ff:ff", "mac: ff:ff:ff:ff:ff:ff is not one station's address"),
        ("tap://tap0?ip=10.0.0.1", "ip: '10.0.0.1' is not an address with its prefix; write it like 10.0.0.1/24"),
        ("tap://tap0?ip=10.0.0.1/33", "ip: '10.0.0.1/33' is not an address with its prefix"),
        ("tap://tap0?ip=224.0.0.1/4", "ip: 224.0.0.1/4 is no station's address"),
        ("tap://tap0?ip=fe80::1%251/64", "ip: 'fe80::1%1/64' is not an address with its prefix"),
        ("tap://tap0?ip=", "ip: needs a list; write it like 10.0.0.1/24"),
        ("tap://tap0?ip=10.0.0.1/24&master=br0", "ip: a port of a bridge has no address; give it to br0 itself"),
        ("tap://tap0?ifup", "ifup: needs a text; write it like /etc/qemu-ifup"),
        ("tap://tap0?ifdown=", "ifdown: needs a program; write it like /etc/qemu-ifup"),
        ("tap://tap0?fd=3", "fd: a device that is open has its name; leave that out"),
        ("tap://?fd=x", "fd: 'x' is not a number from 0"),
        ("tap://?fd=3&mtu=1400", "unknown parameter 'mtu' for fd://"),
        ("fd://3?remote=a", "it takes name, queue, single, qmp, netdev, limit, idle, any_user"),
    ],
)
def test_what_is_written_wrongly_is_answered_with_what_would_be_right(url: str, said: str) -> None:
    message = refused(url)
    assert message.startswith(url)
    assert said in message.removeprefix(url)


@pytest.mark.parametrize(
    "url",
    [
        "mcast://",
        "mcast://:5",
        "mcast://230.0.0.1",
        "mcast://lan:1",
        "mcast://230.0.0.1:0",
        "udp://lan",
        "unixgram://",
        "vhost-user://",
        "vde://",
        "tap://",
    ],
)
def test_the_url_that_an_error_suggests_is_one(url: str) -> None:
    suggested = re.findall(r"[\w-]+://\S+", refused(url).removeprefix(url))
    assert suggested
    for suggestion in suggested:
        parse(suggestion.rstrip(";,"))


@pytest.mark.parametrize(
    ("url", "table", "meant"),
    [
        (UDP, {"limit": 5, "idle": "10s", "remote": "lan:5"}, f"{UDP}?limit=5&idle=10s&remote=lan:5"),
        (UNIXGRAM, {"remote": "/a&b"}, f"{UNIXGRAM}?remote=/a%26b"),
        (VDE, {"mode": "0660", "group": "kvm", "mgmt": "/m"}, f"{VDE}?mode=0660&group=kvm&mgmt=/m"),
        (VDE, {"mode": 0o660, "dirmode": 0o2770, "mgmtmode": 0}, f"{VDE}?mode=660&dirmode=2770&mgmtmode=0"),
        (VDE, {"connect": True, "port": 5}, f"{VDE}?connect&port=5"),
        (MCAST, {"iface": "lo"}, f"{MCAST}?iface=lo"),
    ],
)
def test_a_table_means_the_same(url: str, table: dict[str, Any], meant: str) -> None:
    assert parse(url, table) == parse(meant)


@pytest.mark.parametrize(
    ("url", "table", "said"),
    [
        (VDE, {"mode": 660}, "660 are no permissions; write them in octal, like 0660, or 0o660 in TOML"),
        (VDE, {"mode": 0o1000}, "512 are no permissions"),
        (VDE, {"dirmode": 2770}, "2770 are no permissions"),
        (VDE, {"mgmtmode": -1}, "-1 are no permissions"),
        (VDE, {"mode": 10**30}, "such a large number"),
        (VDE, {"mode": True}, "write them in octal"),
        (VDE, {"mode": 432.0}, "write them in octal"),
        (VDE, {"group": 36}, "like kvm"),
        (UDP, {"limit": True}, "number from 1"),
        (UDP, {"limit": 1.5}, "number from 1"),
        (UDP, {"idle": 300}, "like 300s"),
        (UDP, {"remote": ["lan", 5]}, "like 127.0.0.1:1234"),
        (UNIXGRAM, {"remote": 5}, "like /run/guest.sock"),
        (MCAST, {"iface": 1}, "like 127.0.0.1"),
    ],
)
def test_a_value_of_another_type_is_answered_with_the_likely_form(url: str, table: dict[str, Any], said: str) -> None:
    assert said in refused(url, table)


@pytest.mark.parametrize(
    ("url", "listens"),
    [
        (MCAST, False),
        (UDP, True),
        (f"{UDP}?remote=lan:5", False),
        (UNIXGRAM, True),
        (f"{UNIXGRAM}?remote=a", False),
        (VDE, True),
        (f"{VDE}?connect", False),
        ("tap://tap0", False),
    ],
)
def test_an_endpoint_with_one_peer_is_itself_the_port(url: str, listens: bool) -> None:
    assert parse(url).listens is listens


@pytest.mark.parametrize(
    "url",
    [
        f"{TAP}?mac=52:54:00:00:00:01&mtu=9000&ip=10.0.0.1/24&ip=fd00::1/64&ifup=/a%26b&ifdown=/c%3f",
        f"{TAP}?master=br1&vlan=10&queue=1MiB",
        "tap://?helper=/a%26b&br=lan&ifup=/c",
    ],
)
def test_all_that_is_asked_of_an_interface_is_in_its_whole_url(url: str) -> None:
    config = parse(url)
    assert parse(config.full_url) == config


TEXTS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8) | st.sampled_from(["%41", "a%", "?&=", "\udcff"])
TARGETS = st.sampled_from(["230.0.0.1:5", "[::1]:5", "127.0.0.1:0", "lan:1", "/a", "rel", "tap0", "3"]) | TEXTS


def escaped(text: str) -> str:
    return "".join(f"%{byte:02x}" for byte in text.encode(errors="surrogateescape"))


@given(
    st.sampled_from(list(SCHEMES)),
    TARGETS,
    st.dictionaries(
        st.sampled_from(["remote", "iface", "connect", "helper", "br"]), TARGETS | st.just("yes"), max_size=2
    ),
)
def test_the_url_an_endpoint_shows_is_printable_and_means_the_same(
    scheme: str, target: str, parameters: dict[str, str]
) -> None:
    query = "&".join(f"{name}={escaped(value)}" for name, value in parameters.items())
    config = read(f"{scheme}://{escaped(target)}?{query}")
    if isinstance(config, EndpointConfig):
        assert config.url.isprintable()
        assert parse(config.url) == config
        assert parse(config.absolute().url).absolute() == config.absolute()
