"""Many of everything: guests on a LAN, cards in a guest, processes that want the same template."""

import pytest
import trio

from tests.cli.program import package_root
from tests.e2e.guest import guest_image
from tests.testing.nested import ONLY_OURS
from vswitch.testing import Guest, GuestImage, Lan, Nic, Result
from vswitch.testing.lan import COMING_UP_MAX
from vswitch.testing.running import Running
from vswitch.testing.shell import VirtioShell

GUESTS, CARDS = 30, 8
# Of a guest: that it is a clone, reaches another one, and what no two may share. The shell does what it can.
OWN = """
grep -q vswitch.template /proc/cmdline || exit 1
ping -c 1 -W 10 {peer} >/dev/null || exit 2
read id </etc/machine-id; read mac </sys/class/net/eth0/address; read uuid </proc/sys/kernel/random/uuid
echo $id $mac $uuid
"""


@pytest.fixture(autouse=True)
def image() -> GuestImage:
    return guest_image()


class Watched:
    """How many guests came up at the same time, at most, and how often one was told the others' names."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at_once_max = self.told = 0
        at_once = 0
        come_up, call = Running.come_up, VirtioShell.call

        async def counted_come_up(running: Running) -> None:
            nonlocal at_once
            at_once += 1
            self.at_once_max = max(self.at_once_max, at_once)
            await come_up(running)
            at_once -= 1

        async def counted_call(shell: VirtioShell, function: str, *words: str) -> Result:
            self.told += function == "know"
            return await call(shell, function, *words)

        monkeypatch.setattr(Running, "come_up", counted_come_up)
        monkeypatch.setattr(VirtioShell, "call", counted_call)


async def test_thirty_guests_reach_each_other_and_share_nothing(lan: Lan, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch)
    guests = await lan.boot(*(f"g{number}" for number in range(GUESTS)))
    assert watched.at_once_max <= COMING_UP_MAX, "each is to be up in time"
    assert watched.told < 2 * GUESTS, "none is told again for each that comes up"
    said: list[str] = []

    async def ask(guest: Guest, peer: Guest) -> None:
        said.extend((await guest.run(OWN.format(peer=peer.name), timeout=90)).check().stdout.split())

    async with trio.open_nursery() as nursery:
        for guest, peer in zip(guests, [*guests[1:], guests[0]], strict=True):
            nursery.start_soon(ask, guest, peer)
    assert len(set(said)) == 3 * GUESTS
    assert {guest.mac for guest in guests} < set(said)
    assert [guest.ip for guest in guests] == [str(ip) for ip in list(lan.network.hosts())[:GUESTS]]
    learned = {(station.mac, station.port) for station in await lan.switch.macs()}
    assert learned == {(guest.mac, guest.name) for guest in guests}


async def test_each_of_eight_cards_carries_frames_of_its_own_network(lan: Lan) -> None:
    cards = [Nic(ip=f"10.1.{number}.1/24", port={"vlan": number}) for number in range(1, CARDS + 1)]
    guest = await lan.guest("router", nics=cards)
    for number, link in enumerate(guest.links, 1):
        host = await lan.host(f"h{number}", f"10.1.{number}.2/24", vlan=number)
        assert await host.ping(link.ip, timeout=10)
        assert (await lan.expect(f"icmp and src host {link.ip}", at=host)).src == link.mac
    macs = (await guest.run("cat /sys/class/net/eth*/address")).stdout.split()
    assert macs == [link.mac for link in guest.links]
    assert len(set(macs)) == CARDS


WORKERS = """
    import pytest
    from vswitch.testing import template

    @pytest.fixture
    def counted(monkeypatch):
        make = template._make

        async def counted(*arguments):
            with open({made!r}, "a") as file:
                print("made", file=file)
            await make(*arguments)

        monkeypatch.setattr(template, "_make", counted)

    @pytest.mark.parametrize("number", range(4))
    async def test_it(lan, counted, number, worker_id):
        print(worker_id)
        a, host = await lan.guest("a"), await lan.host("host")
        assert (await a.run("grep vswitch.template /proc/cmdline")).ok
        assert await host.ping(a.ip, timeout=10)
        with open({made!r}) as file:
            assert len(file.readlines()) == 1
"""


def test_of_several_workers_one_makes_the_template_that_all_use(
    pytester: pytest.Pytester, image: GuestImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = pytester.mkdir("cache")
    own = cache / "guest" / image.kernel.parent.name
    own.mkdir(parents=True)
    for path in image.kernel.parent.iterdir():
        if path.is_file():
            (own / path.name).symlink_to(path)
    monkeypatch.setenv("VSWITCH_CACHE", str(cache))
    monkeypatch.setenv("PYTHONPATH", package_root(), prepend=":")
    pytester.makepyfile(WORKERS.format(made=str(pytester.path / "made")))
    pytester.runpytest_subprocess(*ONLY_OURS, "-p", "xdist", "-n", "4").assert_outcomes(passed=4)
    (kept,) = [path for path in (own / "templates").iterdir() if path.suffix != ".lock"]
    assert sorted(path.name for path in kept.iterdir()) == ["manifest.json", "memory", "state"]
