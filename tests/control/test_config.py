"""The TOML file: what it may say, and what is answered to what it may not."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vswitch.cli.serving.serve import serve
from vswitch.control import config
from vswitch.control.config import SwitchConfig
from vswitch.control.recording import RecordLimits
from vswitch.endpoints.url import SCHEMES, parse
from vswitch.errors import InputError

# For each URL parameter: a value as TOML has it, and the same as a URL has it.
PARAMETERS = {
    "name": ('"web"', "web"),
    "queue": ('"2MiB"', "2MiB"),
    "connect": ("true", "yes"),
    "single": ("true", "on"),
    "any_user": ("true", "true"),
    "unsealed": ("true", "yes"),
    "insecure": ("true", ""),
    "tls": ('["cert.pem", "key.pem", "ca.pem"]', "cert.pem,key.pem,ca.pem"),
    "tls_name": ('"lab.example"', "lab.example"),
    "limit": ("7", "7"),
    "idle": ('"20s"', "20s"),
    "iface": ('"eth0"', "eth0"),
    "port": ("3", "3"),
    "mode": ('"0660"', "0660"),
    "dirmode": ('"2770"', "2770"),
    "group": ('"kvm"', "kvm"),
    "mgmt": ('"/run/lan.mgmt"', "/run/lan.mgmt"),
    "mgmtgroup": ('"kvm"', "kvm"),
    "mgmtmode": ('"0660"', "660"),
    "qmp": ('"/run/vm.qmp"', "/run/vm.qmp"),
    "netdev": ('"net1"', "net1"),
    "vni": ("43", "43"),
    "mcast": ('"239.1.1.1"', "239.1.1.1"),
    "learn": ("true", "yes"),
    "vxvde": ("true", "yes"),
    "session": ('"0x8badf00d"', "2343432205"),
    "rxsession": ("3735928559", "0xdeadbeef"),
    "txcookie": ('"8badf00d"', "0x8BADF00D"),
    "rxcookie": ('"0102030405060708"', "0102030405060708"),
    "counter": ("true", "yes"),
    "pincounter": ("true", "yes"),
    "offset": ("4", "4"),
    "udp": ("false", "no"),
    "fragment": ("true", "yes"),
    "host": ('"10.0.2.9"', "10.0.2.9"),
    "dns": ('"10.0.2.9"', "10.0.2.9"),
    "dhcpstart": ('"10.0.2.9"', "10.0.2.9"),
    "mac": ('"52:54:00:00:00:09"', "52:54:00:00:00:09"),
    "domainname": ('"lab.example"', "lab.example"),
    "mtu": ("9000", "9000"),
    "dhcp": ("false", "no"),
    "restrict": ("true", "yes"),
    "internet": ("false", "no"),
    "host_access": ("true", "yes"),
    "allow": ('["deb.debian.org:443", "[2001:db8::1]:80-90"]', "deb.debian.org:443,[2001:db8::1]:80-90"),
    "deny": ('["10.0.0.0/8", "tcp:25"]', "10.0.0.0/8,tcp:25"),
    "reserve": ('["web@10.0.2.50", "52:54:00:00:00:09@10.0.2.51"]', "web@10.0.2.50,52:54:00:00:00:09@10.0.2.51"),
    "leases": ('"/run/lab.leases"', "/run/lab.leases"),
    "ipv4": ("false", "no"),
    "ipv6": ("false", "no"),
    "ipv6-net": ('"fd00::/64"', "fd00::/64"),
    "ipv6-host": ('"fec0::9"', "fec0::9"),
    "ipv6-dns": ('"fec0::9"', "fec0::9"),
    "guestfwd": (
        "[\"tcp:10.0.2.100:1234-cmd:/usr/bin/env sh -c 'a, b'\"]",
        "tcp:10.0.2.100:1234-cmd:/usr/bin/env sh -c 'a, b'",
    ),
    "smb": ('"/srv/files"', "/srv/files"),
    "smbserver": ('"10.0.2.9"', "10.0.2.9"),
    "tftp": ('"/srv/tftp"', "/srv/tftp"),
    "bootfile": ('"pxelinux.0"', "pxelinux.0"),
    "tftp-server-name": ('"10.0.2.2"', "10.0.2.2"),
    "hostname": ('"guest"', "guest"),
    "dns_listen": ('"127.0.0.1:5300"', "127.0.0.1:5300"),
    "dnssearch": ('["a.example", "b.example"]', "a.example,b.example"),
    "fd": ("3", "3"),
    "helper": ("true", ""),
    "br": ('"br1"', "br1"),
    "ip": ('["10.0.0.1/24", "fd00::1/64"]', "10.0.0.1/24,fd00::1/64"),
    "master": ('"br0"', "br0"),
    "ifup": ('"/etc/qemu-ifup"', "/etc/qemu-ifup"),
    "offload": ("false", "no"),
    "ifdown": ('"/etc/qemu-ifdown"', "/etc/qemu-ifdown"),
    "hostfwd": ('["tcp::2222-:22", "tcp::8080-web:80"]', "tcp::2222-:22,tcp::8080-web:80"),
}
REMOTES = {
    "udp": "127.0.0.1:1235",
    "unixgram": "/run/guest.sock",
    "vxlan": "127.0.0.4",
    "l2tpv3": "127.0.0.1:1235",
}
TARGETS = {
    "tcp": "tcp://127.0.0.1:1234",
    "unix": "unix:///run/lan.sock",
    "vhost-user": "vhost-user:///run/lan.vhost",
    "fd": "fd://3",
    "mcast": "mcast://230.0.0.1:1234",
    "udp": "udp://127.0.0.1:1234",
    "unixgram": "unixgram:///run/lan.sock",
    "vde": "vde:///run/lan.vde",
    "tap": "tap://tap0",
    "vxlan": "vxlan://127.0.0.1",
    "l2tpv3": "l2tpv3://127.0.0.1",
    "user": "user://10.0.2.0/24",
}

WITHOUT_NAME = {"fd", "helper", "br"}  # of tap://: they say which device is meant
NEEDED = {"vxlan": ("vni=42", "remote=127.0.0.3"), "l2tpv3": ("session=7", "remote=127.0.0.1:9")}
NOT_WITH_REMOTE = ("mcast", "vxvde")

ONE_PEER = {
    "tcp": "single&",
    "unix": "single&",
    "vhost-user": "single&",
    "udp": "remote=127.0.0.1:9&",
    "unixgram": "remote=/run/vm.sock&",
}

Reader = Callable[[str], SwitchConfig]
Refused = Callable[[str], str]


@pytest.fixture
def read(tmp_path: Path) -> Reader:
    """Reads a configuration file with a given content."""

    def read(content: str) -> SwitchConfig:
        path = tmp_path / "lab.toml"
        path.write_text(content, encoding="utf-8")
        return config.read(str(path))

    return read


@pytest.fixture
def refused(read: Reader) -> Refused:
    """The message for a content that is wrong, without the file's path and the line, with which it begins."""

    def refused(content: str) -> str:
        with pytest.raises(InputError) as caught:
            read(content)
        found = re.fullmatch(r"/.*/lab\.toml(:[0-9]+)?: (.*)", str(caught.value))
        assert found is not None
        message = found[2]
        assert message.isprintable()
        return message

    return refused


def test_an_empty_file_says_nothing(read: Reader) -> None:
    assert read("") == SwitchConfig()
    assert read("# nothing\n[switch]\n") == SwitchConfig()


def test_everything_a_switch_can_be_told(read: Reader) -> None:
    said = read("""
        [switch]
        name = "lab"
        ageing = "20s"
        table_size = 100
        capture = "lan.pcapng"
        capture_memory = "1MiB"
        record = "60s,2MiB"

        [[endpoint]]
        url = "tcp://127.0.0.1:1234?name=a"

        [[endpoint]]
        url = "unix:///run/lan.sock"
        connect = true
    """)
    endpoints = (parse("tcp://127.0.0.1:1234?name=a"), parse("unix:///run/lan.sock?connect"))
    assert said == SwitchConfig(
        name="lab",
        ageing_s=20.0,
        table_size=100,
        capture="lan.pcapng",
        capture_memory=2**20,
        record=RecordLimits(2 * 2**20, 60.0),
        endpoints=endpoints,
    )


def test_every_option_of_serve_that_is_about_the_switch_is_a_key(refused: Refused) -> None:
    options = {option.lstrip("-").replace("-", "_") for parameter in serve.params for option in parameter.opts}
    keys = refused("[switch]\nnothing = 1").partition("it takes ")[2].split(", ")
    assert options - {"urls", "config", "ready_fd", "no_user", "log_format", "log_level"} == set(keys)


@pytest.mark.parametrize(
    ("scheme", "parameter"), [(scheme, parameter) for scheme, (_, takes) in SCHEMES.items() for parameter in takes]
)
def test_every_url_parameter_is_a_key_of_the_same_name(read: Reader, scheme: str, parameter: str) -> None:
    remote = REMOTES.get(scheme, "")
    toml, text = (f'"{remote}"', remote) if parameter == "remote" else PARAMETERS[parameter]
    target = TARGETS[scheme] if parameter not in WITHOUT_NAME else "tap://"
    target += "?connect&" if parameter == "port" else "?"
    target += ONE_PEER.get(scheme, "") if parameter in ("qmp", "netdev") else ""
    also = {"netdev": "qmp=/run/vm.qmp&", "smbserver": "smb=/srv&", "br": "helper&", "vxvde": "mcast=239.1.1.1&"}
    target += (also | {"tls_name": "connect&tls=a,b,c&"}).get(parameter, "")
    needed = [need for need in NEEDED.get(scheme, ()) if not need.startswith(f"{parameter}=")]
    is_needed = len(needed) < len(NEEDED.get(scheme, ())) or parameter == "mcast" or parameter in WITHOUT_NAME
    target += "".join(f"{need}&" for need in needed if parameter not in NOT_WITH_REMOTE or need[:6] != "remote")
    said = read(f'[[endpoint]]\nurl = "{target}"\n{parameter} = {toml}\n')
    as_url = parse(f"{target}{parameter}={text}" if text else f"{target}{parameter}")
    assert said.endpoints == (as_url,)
    assert is_needed or as_url != parse(target)


def test_what_a_table_says_is_added_to_what_its_url_says(read: Reader) -> None:
    said = read('[[endpoint]]\nurl = "tcp://127.0.0.1:1?connect"\nname = "web"')
    assert said.endpoints == (parse("tcp://127.0.0.1:1?connect&name=web"),)


def test_a_value_in_a_table_is_not_percent_decoded(read: Reader, refused: Refused) -> None:
    assert "letters" in refused('[[endpoint]]\nurl = "tcp://127.0.0.1:1"\nname = "%61"')
    assert read('[[endpoint]]\nurl = "tcp://127.0.0.1:1?name=%61"').endpoints[0].name == "a"


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.toml: No such file or directory"):
        config.read(str(tmp_path / "nowhere.toml"))


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="directory"):
        config.read(str(tmp_path))


def test_a_path_is_shown_safely(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        config.read(str(tmp_path / "a\x1b[31m\n\udcff"))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "content",
    [
        "switch",
        "[switch",
        '[switch]\nname = "a"\nname = "b"',
        "[switch]\nname = lab",
        "\x00",
        "[switch]\nname = '\x1b'",
        "table_size = " + "9" * 5000,
        "a = " + "[" * 100_000,
        "a = " + "{a=" * 100_000,
    ],
    ids=lambda content: content[:20].encode("unicode_escape").decode(),
)
def test_what_is_no_toml_is_said_to_be_none(refused: Refused, content: str) -> None:
    assert refused(content)


def test_bytes_that_are_no_text_are_no_toml(tmp_path: Path) -> None:
    path = tmp_path / "lab.toml"
    path.write_bytes(b"[switch]\nname = '\xff\xfe'")
    with pytest.raises(InputError, match="not TOML"):
        config.read(str(path))


@pytest.mark.parametrize(
    ("content", "where", "right"),
    [
        ("name = 'lab'", "name", "switch, endpoint"),
        ("[endpoints]", "endpoints", "did you mean 'endpoint'?"),
        ("switch = 1", "switch", "[switch]"),
        ("[[switch]]\nname = 'a'", "switch", "[switch]"),
        ("[endpoint]\nurl = 'fd://3'", "endpoint", "[[endpoint]]"),
        ("endpoint = 'fd://3'", "endpoint", "[[endpoint]]"),
        ("endpoint = ['fd://3']", "endpoint", "[[endpoint]]"),
        ("[switch]\nagein = '300s'", "[switch]", "did you mean 'ageing'?"),
        ("[switch]\n'\\u001b[31m' = 1", "[switch]", "name, ageing, table_size"),
        ('[switch]\n"\\u001b[31m" = 1', "[switch]", "name, ageing, table_size"),
        ("[switch]\nname = 5", "[switch] name", 'name = "lab"'),
        ("[switch]\nname = true", "[switch] name", 'name = "lab"'),
        ("[switch]\nname = ['lab']", "[switch] name", 'name = "lab"'),
        ("[switch]\nname = 'a b'", "[switch] name", "letters"),
        ("[switch]\nname = ''", "[switch] name", "letters"),
        ("[switch]\nageing = 300", "[switch] ageing", 'ageing = "300s"'),
        ("[switch]\nageing = 300.0", "[switch] ageing", 'ageing = "300s"'),
        ("[switch]\nageing = 07:32:00", "[switch] ageing", 'ageing = "300s"'),
        ("[switch]\nageing = '300'", "[switch] ageing", "300s"),
        ("[switch]\nageing = '1ms'", "[switch] ageing", "1s"),
        ("[switch]\nageing = '1000h'", "[switch] ageing", "1e+06s"),
        ("[switch]\ntable_size = '8192'", "[switch] table_size", "table_size = 8192"),
        ("[switch]\ntable_size = 8192.0", "[switch] table_size", "table_size = 8192"),
        ("[switch]\ntable_size = true", "[switch] table_size", "table_size = 8192"),
        ("[switch]\ntable_size = 0", "[switch] table_size", "1048576"),
        ("[switch]\ntable_size = -1", "[switch] table_size", "1048576"),
        ("[switch]\ntable_size = 1048577", "[switch] table_size", "1048576"),
        ("[switch]\ncapture = true", "[switch] capture", 'capture = "lan.pcapng"'),
        ("[switch]\ncapture = ''", "[switch] capture", "lan.pcapng"),
        ("[switch]\ncapture = 'captures/'", "[switch] capture", "lan.pcapng"),
        ('[switch]\ncapture = "a\\u0000b"', "[switch] capture", "lan.pcapng"),
        ("[switch]\ncapture_memory = 64", "[switch] capture_memory", 'capture_memory = "64MiB"'),
        ("[switch]\ncapture_memory = '1KiB'", "[switch] capture_memory", "1MiB"),
        ("[switch]\nrecord = 60", "[switch] record", 'record = "60s"'),
        ("[switch]\nrecord = '60'", "[switch] record", "60MiB"),
        ("[switch]\nrecord = '1s,2s'", "[switch] record", "60s,64MiB"),
        ("[switch]\nrecord = '1TiB'", "[switch] record", "MiB"),
        ("[[endpoint]]\nname = 'a'", "[[endpoint]] 1", 'url = "tcp://127.0.0.1:1234"'),
        ("[[endpoint]]\nurl = 3", "[[endpoint]] 1", 'url = "tcp://127.0.0.1:1234"'),
        ("[[endpoint]]\nurl = 'fd://3'\n[[endpoint]]\nurl = 'lan'", "[[endpoint]] 2: lan", "unix:///"),
        ("[[endpoint]]\nurl = 'fd://3'\nconnect = true", "[[endpoint]] 1: fd://3", "name, queue"),
        ("[[endpoint]]\nurl = 'fd://3?name=a'\nname = 'b'", "[[endpoint]] 1: fd://3", "twice"),
        ("[[endpoint]]\nurl = 'fd://3'\nname = 5", "[[endpoint]] 1: fd://3: name", "lab"),
        ("[[endpoint]]\nurl = 'fd://3'\nqueue = 1048576", "[[endpoint]] 1: fd://3: queue", "MiB"),
        ("[[endpoint]]\nurl = 'fd://3'\nqueue = '1'", "[[endpoint]] 1: fd://3: queue", "1MiB"),
        ("[[endpoint]]\nurl = 'fd://3'\nsingle = 1", "[[endpoint]] 1: fd://3: single", "yes"),
    ],
)
def test_an_error_names_the_table_and_what_would_be_right(
    refused: Refused, content: str, where: str, right: str
) -> None:
    message = refused(content)
    assert where in message
    assert right in message


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("[switch]\n\nagein = '300s'", 3),
        ("# lab\n[switch]\nname = 'lab'\nageing = 300", 4),
        ("[switch]\n[[endpoint]]\nurl = 'fd://3'\n\n[[endpoint]]\nname = 'a'", 5),
        ("[[endpoint]]\nvlan = 10\nurl = 'lan'", 3),
        ("[[endpoint]]\nvlan = 10\nurl = 'fd://3?nmae=a'", 3),
        ("[[endpoint]]\nurl = 'fd://3'\nvlna = 10", 3),
        ("[[endpoint]]\nurl = 'fd://3'\nvlan = 10\ntrunk = [\n10,\n]", 4),
        ("[[endpoint]]\nurl = 'fd://3'\nnative = 10", 3),
        ("[[endpoint]]\nurl = 'fd://3'\nvlan = 4095", 3),
        ("[[endpoint]]\nurl = 'vde:///a'\nport = 3", 3),
        ("[[endpoint]]\nurl = 'tcp://127.0.0.1:1'\nstatic = '52:54:00:00:00:01'", 3),
        ("[switch]\nname = lab", 2),
        ("\n\nendpoint = 1", 3),
    ],
)
def test_an_error_names_the_line(tmp_path: Path, content: str, line: int) -> None:
    path = tmp_path / "lab.toml"
    path.write_text(content)
    with pytest.raises(InputError, match=rf"^{path}:{line}: "):
        config.read(str(path))


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
@example("[[endpoint]]\nurl='tcp://\\u001b'")
def test_any_text_is_a_configuration_or_an_error_of_one_printable_line(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_text(text, encoding="utf-8", newline="")
    said: SwitchConfig | InputError
    try:
        said = config.read(str(path))
    except InputError as error:
        said = error
    assert isinstance(said, SwitchConfig) or str(said).isprintable()
