"""user:// with allow= and deny=: what may be written, and what the real process does and says."""

import os
from pathlib import Path

import dnslib  # type: ignore[import-untyped]
import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether

from tests.endpoints.user_guest import GATEWAY, Guest, child_of
from tests.peers import TIMEOUT_S, until
from vswitch import InputError, VSwitch
from vswitch.control.config import SwitchConfig
from vswitch.endpoints.url import parse
from vswitch.endpoints.user import child, denied, egress
from vswitch.endpoints.user.child import Denial
from vswitch.endpoints.user.egress import Rule
from vswitch.endpoints.user.options import UserOptions
from vswitch.ports.event import Event
from vswitch.services.user_network import __main__ as main
from vswitch.services.user_network import denials


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("192.0.2.1", Rule(network="192.0.2.1")),
        ("10.0.0.0/8", Rule(network="10.0.0.0/8")),
        ("2001:db8::/32", Rule(network="2001:db8::/32")),
        ("2001:DB8::1", Rule(network="2001:db8::1")),
        ("192.0.2.1:443", Rule(network="192.0.2.1", ports=(443, 443))),
        ("[2001:db8::1]:443", Rule(network="2001:db8::1", ports=(443, 443))),
        ("[2001:db8::/32]:8000-8010", Rule(network="2001:db8::/32", ports=(8000, 8010))),
        ("deb.debian.org", Rule(name="deb.debian.org")),
        ("Deb.Debian.Org.:443", Rule(name="deb.debian.org", ports=(443, 443))),
        ("*.debian.org", Rule(name="*.debian.org")),
        ("intranet", Rule(name="intranet")),
        ("udp:deb.debian.org:443", Rule("udp", name="deb.debian.org", ports=(443, 443))),
        ("udp:2001:db8::1", Rule("udp", network="2001:db8::1")),
        ("icmp:10.0.0.0/8", Rule("icmp", network="10.0.0.0/8")),
        ("icmp", Rule("icmp")),
        ("udp:*", Rule("udp")),
        ("*", Rule()),
        *((text, Rule(ports=(25, 25))) for text in (":25", "25", "*:25", ":25-25")),
        *((text, Rule("tcp", ports=(25, 25))) for text in ("tcp:25", "tcp::25", "TCP:*:25")),
    ],
)
def test_a_rule_is_written_as_one_would_guess(text: str, rule: Rule) -> None:
    assert egress.read(text) == rule
    assert egress.read(str(rule)) == rule


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("10.0.0.1/8", "'10.0.0.1/8': 10.0.0.1/8 has host bits set; write one like 10.0.0.0/8"),
        ("192.0.2.300", "'192.0.2.300': '192.0.2.300' is no address and no network; write one like 10.0.0.0/8"),
        ("fe80::1%25eth0", "is no address and no network"),
        ("example.com:http", "'example.com:http': 'http' is no port; write one like :443"),
        ("https://example.com", "'//example.com' is no port; write one like :443"),
        (":0", "ports are 1 to 65535, the lower one first; write them like :443 or :8000-8010"),
        (":9-8", "ports are 1 to 65535, the lower one first"),
        (":65536", "ports are 1 to 65535, the lower one first"),
        ("icmp:10.0.0.0/8:7", "icmp has no ports; leave them out, like icmp:10.0.0.0/8"),
        ("a..b", "'a..b': that is no address and no domain name; write it like deb.debian.org:443, *.debian.org"),
        ("a.*.b", "that is no address and no domain name"),
        ("*b.c", "that is no address and no domain name"),
        ("%C3%A4.example", "DNS has no such letters; write the name as xn--"),
        (":", "':': says nothing; write it like deb.debian.org:443"),
        ("", "needs a list; write it like deb.debian.org:443"),
        ("a,,b", "needs a list; write it like deb.debian.org:443"),
        (",".join(f":{port}" for port in range(1, 200)), "199 rules are too many; there may be 128"),
        ("host.lan:80", "host.lan is in this network, and rules are about what is outside; the gateway is 10.0.2.2"),
        ("*.lan", "*.lan is in this network"),
    ],
)
def test_what_is_wrong_is_said(text: str, said: str) -> None:
    for parameter in ("allow", "deny"):
        with pytest.raises(InputError) as caught:
            parse(f"user://?{parameter}={text}")
        assert f"{parameter}: " in str(caught.value)
        assert said in str(caught.value)
        assert caught.value.parameter == parameter


def test_what_lets_nothing_out_allows_nothing() -> None:
    with pytest.raises(InputError, match="allow: restrict=yes lets nothing out; leave one of them"):
        parse("user://?restrict=yes&allow=:443")
    assert parse("user://?restrict=yes&host_access=yes&deny=:25").user.deny == (Rule(ports=(25, 25)),)


def test_rules_are_read_back() -> None:
    config = parse(
        "user://?allow=deb.debian.org:443,[2001:db8::1]:1-2&allow=tcp:22&deny=*.debian.org,:443&deny=tcp:22,:443"
    )
    assert [str(rule) for rule in config.user.allow] == ["deb.debian.org:443", "[2001:db8::1]:1-2", "tcp:22"]
    assert [str(rule) for rule in config.user.deny] == ["*.debian.org", ":443", "tcp:22"]
    assert parse(config.full_url) == config


@given(st.text("tcpudi:.*[]/-0123456789abf%_", max_size=40))
def test_whatever_is_written_is_read_and_read_back_or_said_to_be_wrong(text: str) -> None:
    try:
        rule = egress.read(text)
    except InputError:
        pass
    else:
        assert egress.read(str(rule)) == rule


def test_as_many_rules_as_there_may_be_fit_what_a_child_is_told() -> None:
    name = ".".join(["x" * 62] * 4)[: egress.NAME_MAX]
    assert len(msgspec.json.encode([Rule("icmp", "", name, (10000, 60000))] * (2 * egress.MOST))) < 100_000


def said(**fields: object) -> Denial:
    said = denials.Denial(**{"mac": "52:54:00:00:00:0a", "protocol": "tcp"} | fields)  # type: ignore[arg-type]
    heard = child._SAID.decode(msgspec.json.encode([main._WORDS[denials.Denial], said]))
    assert isinstance(heard, child.Denied)
    return heard.denial


@pytest.mark.parametrize(
    ("denial", "text"),
    [
        (
            said(ip="192.0.2.1", port=443, name="deb.debian.org"),
            "may not reach deb.debian.org (192.0.2.1) by tcp, port 443: no allow= names that; "
            "add allow=tcp:deb.debian.org:443 if it may",
        ),
        (
            said(ip="2001:db8::1", port=443),
            "may not reach 2001:db8::1 by tcp, port 443: no allow= names that; "
            "add allow=tcp:[2001:db8::1]:443 if it may",
        ),
        (said(protocol="icmp", ip="192.0.2.1", rule=":25"), "may not reach 192.0.2.1 by icmp: deny=:25"),
        (
            said(protocol="dns", name="example.com"),
            "may not look up example.com: no allow= names that; add allow=example.com if it may",
        ),
    ],
)
def test_what_is_said_of_it(denial: Denial, text: str) -> None:
    assert denied.text(denial, [Rule("tcp"), Rule(ports=(25, 25))]) == text


@pytest.mark.parametrize(
    "fields",
    [
        {"mac": "nobody"},
        {"ip": "\x1b[31m"},
        {"name": "\x1b[31m"},
        {"name": "x" * 256},
        {"port": 70000},
        {"protocol": "sctp"},
        {"rule": 1},
        {"more": -1},
    ],
)
def test_a_child_in_the_hands_of_a_guest_cannot_say_just_anything(fields: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        said(**fields)


def test_of_a_rule_that_is_not_there_nothing_is_said() -> None:
    assert denied.text(said(ip="192.0.2.1", rule=":25"), UserOptions().deny) == ""


async def events(switch: VSwitch, count: int) -> list[Event]:
    def of_guests() -> list[Event]:
        return [event for event in switch.events.kept() if event.code == "denied"]

    await until(lambda: len(of_guests()) >= count)
    return of_guests()


def syn(guest: Guest, to: str, port: int) -> Ether:
    return Ether(src=guest.mac, dst=GATEWAY) / IP(src=guest.ip, dst=to) / TCP(flags="S", sport=1000, dport=port)


@pytest.mark.usefixtures("libslirp")
async def test_a_guest_is_refused_and_an_event_says_so(switch: VSwitch) -> None:
    await switch.attach("user://10.0.2.0/24?name=net&allow=deb.debian.org,*.debian.org&deny=tcp:25")
    a = await Guest.plugged_into(switch, "a", "52:54:00:00:00:0a")
    await a.lease("web")
    await a.ping("10.0.2.2")
    for port in (443, 25):
        await a.send(syn(a, "192.0.2.1", port))
        refusal = await a.receive(TCP)
        assert (refusal[IP].src, refusal[TCP].sport, refusal[TCP].flags) == ("192.0.2.1", port, "RA")
    question = UDP(sport=5353, dport=53) / dnslib.DNSRecord.question("exa\x1bmple.com").pack()
    await a.send(Ether(src=a.mac, dst=GATEWAY) / IP(src=a.ip, dst="10.0.2.3") / question)
    while (answer := await a.receive(UDP))[UDP].sport != 53:
        pass
    assert dnslib.DNSRecord.parse(bytes(answer[UDP].payload)).header.rcode == dnslib.RCODE.NXDOMAIN
    guest = "a: web (52:54:00:00:00:0a) may not"
    found = await events(switch, 3)
    assert [event.text for event in found] == [
        f"{guest} reach 192.0.2.1 by tcp, port 443: no allow= names that; add allow=tcp:192.0.2.1:443 if it may",
        f"{guest} reach 192.0.2.1 by tcp, port 25: deny=tcp:25",
        f"{guest} look up exa\\027mple.com: no allow= names that",
    ]
    assert {(event.ports, event.mac) for event in found} == {(("a",), a.mac)}


@pytest.mark.usefixtures("libslirp")
async def test_a_child_that_says_it_again_and_again_is_not_repeated(
    switch: VSwitch, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    denial = denials.Denial(mac="52:54:00:00:00:0a", protocol="dns", name="x")
    word = msgspec.json.encode(["Denied", denial])
    lines = [
        "import socket, sys, time",
        "words = socket.socket(fileno=int(sys.argv[2]))",
        "words.send(b'[\"ready\", []]')",
        f"for _ in range(1000): words.send({word!r})",
        'words.send(b\'["Where", "nobody"]\')',
        "time.sleep(60)",
    ]
    (tmp_path / "nonsense.py").write_text("\n".join(lines))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(child, "PROGRAM", "nonsense")
    monkeypatch.setattr("vswitch.endpoints.user.endpoint.DENIED_MAX", 5)
    monkeypatch.setattr("vswitch.endpoints.user.endpoint.DENIED_REST_S", 1000.0)
    await switch.attach("user://10.0.2.0/24?name=net&deny=:25")
    await until(lambda: not next(port for port in switch.ports() if port.name == "net").up)
    assert len(await events(switch, 5)) == 5


@pytest.mark.usefixtures("libslirp")
async def test_a_configuration_that_is_read_again_changes_rules_and_nothing_else(switch: VSwitch) -> None:
    def read(rules: str) -> SwitchConfig:
        return SwitchConfig(endpoints=(parse(f"user://10.0.2.0/24?name=net&{rules}"),))

    file = read("allow=192.0.2.1,deb.debian.org:443")
    await switch.configuration.begin(file, lambda: file)
    process = child_of(os.getpid())
    a = await Guest.plugged_into(switch, "a", "52:54:00:00:00:0a")
    await a.lease("web")
    assert not any(change.diff() for change in await switch.configuration.reload())
    assert "allow=192.0.2.1&allow=deb.debian.org:443" in switch.configuration.saved()
    for rules, diff, why in (
        (
            "allow=:80&deny=tcp:443",
            ["- net  allow=192.0.2.1", "- net  allow=deb.debian.org:443", "+ net  allow=:80", "+ net  deny=tcp:443"],
            "deny=tcp:443",
        ),
        ("deny=192.0.2.1", ["- net  allow=:80", "- net  deny=tcp:443", "+ net  deny=192.0.2.1"], "deny=192.0.2.1"),
    ):
        file = read(rules)
        assert [change.diff() for change in await switch.configuration.reload()] == [diff]
        with trio.fail_after(TIMEOUT_S):
            while not any(f": {why}" in event.text for event in await events(switch, 0)):
                await a.send(syn(a, "192.0.2.1", 443))
                await trio.sleep(0.01)
        assert (await a.receive(TCP))[TCP].flags == "RA"
    assert child_of(os.getpid()) == process
    assert "?deny=192.0.2.1" in switch.configuration.saved()
