"""A LAN in a file: what it may say, what is wrong in it and where, and the LAN that comes of it."""

from ipaddress import IPv4Network
from pathlib import Path

import pytest

from vswitch import InputError, RecordLimits
from vswitch.testing import Disk, Kernel, Lan, Login, Nic, SyncLan, topology
from vswitch.testing.topology import GuestSpec, addressed, read

WHOLE = """
[switch]
name = "office"
ageing = "10s"
record = "30s"

[[endpoint]]
url = "tcp://127.0.0.1:0"
vlan = 10

[[guest]]
name = "web"
ip = "10.0.0.80"
mac = "52:54:00:00:00:80"
device = "e1000"
vlan = 10
queue = "1MiB"
memory = "256M"
cpus = 2
packages = ["nftables"]
modules = ["nf_tables"]
gateway = "10.0.0.1"
arguments = ["-vga", "std"]

[[guest]]
name = "router"
disk = "images/router.qcow2"
login = {user = "root", password = "secret"}

[[guest.nic]]
vlan = 10

[[guest.nic]]
ip = ""
vlan = 20

[[guest]]
name = "own"
kernel = "vmlinuz"
initrd = "initrd.img"
append = "quiet"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "office.toml"


def test_all_that_a_file_may_say(file: Path) -> None:
    file.write_text(WHOLE)
    found = read(str(file))
    assert found.name == "office"
    assert (found.switch.ageing_s, found.switch.record) == (10.0, RecordLimits(256 * 2**20, 30.0))
    assert [endpoint.url for endpoint in found.switch.endpoints] == ["tcp://127.0.0.1:0"]
    web, router, own = found.guests
    card = Nic("10.0.0.80", "52:54:00:00:00:80", "e1000", port={"queue": "1MiB", "vlan": 10})
    assert web == GuestSpec(
        "web",
        {
            "memory": "256M",
            "cpus": 2,
            "arguments": ["-vga", "std"],
            "packages": ["nftables"],
            "modules": ["nf_tables"],
            "gateway": "10.0.0.1",
            "nics": [card],
        },
    )
    assert router == GuestSpec(
        "router",
        {
            "image": Disk(file.parent / "images/router.qcow2"),
            "login": Login("root", "secret"),
            "nics": [Nic(port={"vlan": 10}), Nic("", port={"vlan": 20})],
        },
    )
    image = Kernel(file.parent / "vmlinuz", file.parent / "initrd.img")
    assert own == GuestSpec("own", {"append": "quiet", "image": image, "nics": [Nic()]})


def test_a_card_may_share_its_guests_memory(file: Path) -> None:
    file.write_text("[[guest]]\nname = 'a'\ntransport = 'vhost-user'\nvlan = 10")
    (guest,) = read(str(file)).guests
    assert guest.options["nics"] == [Nic(transport="vhost-user", port={"vlan": 10})]


def test_a_switch_without_a_name_has_the_files(file: Path) -> None:
    file.write_text("")
    assert read(str(file)) == topology.Topology("office", read(str(file)).switch, ())
    other = file.with_name("my lab.toml")
    other.write_text("")
    with pytest.raises(InputError, match=r"'my lab' cannot be a name; write one: \[switch\] name = \"lab\"$"):
        read(str(other))


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("guest = 1", 1, "guest is not a list of tables; write [[guest]]"),
        ("[[guest]]\nip = ''", 1, '[[guest]] 1: has no name; write name = "a"'),
        ("[[guest]]\nname = 'a'\n[[guest]]\nname = 'a b'", 4, "[[guest]] 2: 'a b' cannot be a name"),
        ("[[guest]]\nname = 'a'\n[[guest]]\nname = 'a'", 4, "[[guest]] 2: there are two guests 'a'"),
        ("[[guest]]\nname = 'a'\nmemroy = '1G'", 3, "[[guest]] 1: unknown entry 'memroy'; did you mean 'memory'?"),
        ("[[guest]]\nname = 'a'\ncpus = true", 3, "[[guest]] 1: cpus is true; write it like cpus = 2"),
        ("[[guest]]\nname = 'a'\npackages = [1]", 3, "[[guest]] 1: packages is [1]; write it like packages = "),
        ("[[guest]]\nname = 'a'\nvlan = 5000", 3, "[[guest]] 1: vlan: "),
        ("[[guest]]\nname = 'a'\nvlan = 5\ntrunk = 'all'", 4, "[[guest]] 1: vlan and trunk do not go"),
        ("[[guest]]\nname = 'a'\nformat = 'raw'", 3, "[[guest]] 1: format goes with disk; add one, or leave it out"),
        ("[[guest]]\nname = 'a'\ndisk = 'd'\nkernel = 'k'", 4, "[[guest]] 1: has a disk and a kernel"),
        ("[[guest]]\nname = 'a'\nlogin = {usr = 'x'}", 3, "[[guest]] 1: login has an unknown entry 'usr'"),
        ("[[guest]]\nname = 'a'\nlogin = {user = 1}", 3, "[[guest]] 1: login: user is 1; write a text"),
        ("[[guest]]\nname = 'a'\nvlan = 1\n[[guest.nic]]\n", 3, "[[guest]] 1: vlan: of which card? write it in [[gues"),
        ("[[guest]]\nname = 'a'\nnic = 1", 3, "[[guest]] 1: nic is not a list of tables; write [[guest.nic]]"),
        ("[[guest]]\nname = 'a'\n[[guest.nic]]\nname = 'b'", 4, "[[guest]] 1: [[nic]] 1: unknown entry 'name'"),
        ("[[guest]]\nname = 'a'\n[[guest.nic]]\n\n[[guest.nic]]\nvlan = 'x'", 6, "[[guest]] 1: [[nic]] 2: vlan: "),
        ("[[guest]]\nname = 'a'\nip = '10.0.0.1/99'", 3, "[[guest]] 1: ip: '10.0.0.1/99' is no IPv4 address"),
        (
            "[[guest]]\nname = 'a'\ntransport = 'vhost'",
            3,
            "[[guest]] 1: transport: 'vhost' is none of stream, vhost-user",
        ),
        ("[[guest]]\nname = 'a'\nmac = 'nonsense'", 3, "[[guest]] 1: mac: 'nonsense' is not a MAC address"),
        ("[[guest]]\nname = 'a'\ncpus = -3", 3, "[[guest]] 1: cpus: a machine has 1 at least"),
        ("[[guest]]\nname = 'a'\npackages = ['No Such!']", 3, "[[guest]] 1: packages: 'No Such!' is no name of a pack"),
        ("[[guest]]\nname = 'a'\nmodules = ['a/b']", 3, "[[guest]] 1: modules: 'a/b' is no name of a module"),
        ("[switch]\nageing = 3", 2, "[switch] ageing is 3; write it like"),
        ("[gest]\n", 1, "the file has an unknown entry 'gest'"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(file: Path, text: str, line: int, said: str) -> None:
    file.write_text(text)
    with pytest.raises(InputError) as error:
        read(str(file))
    assert str(error.value).startswith(f"{file}:{line}: {said}")


def test_serve_says_what_such_a_file_is_for(file: Path) -> None:
    from vswitch.control import config

    file.write_text("[[guest]]\nname = 'a'")
    with pytest.raises(InputError, match=r":1: \[\[guest\]\] is for: vswitch lab up$"):
        config.read(str(file))


def test_addresses_go_by_the_order_in_the_file() -> None:
    guests = [
        GuestSpec("a", {"nics": [Nic()]}),
        GuestSpec("b", {"nics": [Nic("10.0.0.2/24"), Nic("")]}),
        GuestSpec("c", {"nics": [Nic(), Nic()]}),
    ]
    found = addressed(guests, IPv4Network("10.0.0.0/24").hosts())
    assert [[nic.ip for nic in guest.options["nics"]] for guest in found] == [
        ["10.0.0.1"],
        ["10.0.0.2/24", ""],
        ["10.0.0.3", "10.0.0.4"],
    ]


GUESTS = """
[switch]
name = "pair"

[[endpoint]]
url = "tcp://127.0.0.1:0"

[[guest]]
name = "a"
vlan = 10

[[guest]]
name = "b"
vlan = 10
"""


@pytest.fixture
def pair(file: Path) -> Path:
    file.write_text(GUESTS)
    return file


async def test_the_lan_of_a_file_is_there_when_its_block_begins(pair: Path) -> None:
    async with Lan.from_file(pair) as lan:
        a, b = lan.guests.values()
        assert (lan.switch.name, a.name, a.ip, b.name, b.ip) == ("pair", "a", "10.0.0.1", "b", "10.0.0.2")
        assert [endpoint.url.startswith("tcp://127.0.0.1:") for endpoint in lan.switch.endpoints()].count(True) == 1
        assert await a.run("ping -c1 b")
        assert [port.vlan.access for port in lan.switch.ports()] == [10, 10]


def test_of_a_sync_lan_too(file: Path) -> None:
    file.write_text('[[guest]]\nname = "a"\nnetboot = true\n')
    with SyncLan.from_file(file) as lan:
        assert list(lan.guests) == ["a"]


@pytest.fixture
def wrong(file: Path) -> Path:
    file.write_text(
        GUESTS.replace('name = "b"', 'name = "b"\nip = "10.0.0.1"').replace('name = "a"', 'name = "a"\nip = "10.0.0.1"')
    )
    return file


async def test_a_guest_that_cannot_be_is_told_as_it_is(wrong: Path) -> None:
    with pytest.raises(InputError, match=r"10\.0\.0\.1 is somebody else's already"):
        async with Lan.from_file(wrong):
            pytest.fail("the block was entered")
