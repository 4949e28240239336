"""Forwards of a user network: what leads to its guests, while it runs."""

import signal
import socket
from contextlib import suppress
from pathlib import Path

import pytest
import trio
from scapy.layers.inet import IP, TCP

from tests.endpoints.user_guest import Guest, restarted
from tests.peers import until
from vswitch import InputError, RefusedError, VSwitch
from vswitch.control.config import SwitchConfig
from vswitch.control.model import ForwardInfo
from vswitch.endpoints.url import parse
from vswitch.endpoints.user import forward as forwards
from vswitch.errors import MissingError

pytestmark = pytest.mark.usefixtures("libslirp")

MAC = "52:54:00:00:00:0a"


async def leads(info: ForwardInfo, guest: Guest, port: int) -> None:
    """A connection to it comes in at the guest."""
    async with await trio.open_tcp_stream("127.0.0.1", forwards.read(info.forward).host_port):
        syn = await guest.receive(TCP)
        assert (syn[IP].dst, syn[TCP].dport, syn[TCP].flags) == (guest.ip, port, "S")


def only(switch: VSwitch) -> ForwardInfo:
    (info,) = switch.user_networks.forwards()
    return info


async def test_one_of_the_url_is_there_again_when_the_process_was_replaced(switch: VSwitch) -> None:
    await switch.attach("user://10.0.2.0/24?name=net&hostfwd=tcp::0-:22")
    a = await Guest.plugged_into(switch, "a", MAC)
    await a.lease()
    for _ in range(2):
        await until(lambda: only(switch).ip == a.ip)
        await leads(only(switch), a, 22)
        async with restarted(switch, signal.SIGKILL):
            pass


async def test_one_is_added_before_its_guest_is_there_and_removed(switch: VSwitch) -> None:
    await switch.attach("user://10.0.2.0/24?name=net")
    info = await switch.user_networks.forward("tcp::0-web:80")
    port = forwards.read(info.forward).host_port
    assert info == ForwardInfo(network="net", forward=f"tcp:127.0.0.1:{port}-web:80", ip=None, problem="")
    with pytest.raises(OSError, match="all attempts to connect"):
        await trio.open_tcp_stream("127.0.0.1", port)
    a = await Guest.plugged_into(switch, "a", MAC)
    await a.lease("web")
    await until(lambda: only(switch).ip == a.ip)
    await leads(info, a, 80)
    await switch.user_networks.unforward(f"tcp:127.0.0.1:{port}")
    assert switch.user_networks.forwards() == []
    await until(lambda: not listens(port))


def listens(port: int) -> bool:
    with suppress(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port)).close()
        return True
    return False


async def test_one_is_added_to_a_guest_that_is_there(switch: VSwitch) -> None:
    await switch.attach("user://10.0.2.0/24?name=net")
    a = await Guest.plugged_into(switch, "a", MAC)
    await a.lease()
    info = await switch.user_networks.forward("tcp::0-a:80")
    assert info.ip == a.ip, "it is there when that is answered"
    await leads(info, a, 80)


async def test_a_socket_at_a_path_leads_to_a_guest_and_goes_with_the_network(switch: VSwitch, tmp_path: Path) -> None:
    path = tmp_path / "web.sock"
    net = await switch.attach(f"user://10.0.2.0/24?name=net&hostfwd=unix:{path}-:80")
    a = await Guest.plugged_into(switch, "a", MAC)
    await a.lease()
    assert path.stat().st_mode & 0o777 == 0o600
    async with await trio.open_unix_socket(str(path)):
        syn = await a.receive(TCP)
        assert (syn[IP].src, syn[TCP].dport) == ("10.0.2.2", 80)
    await net.detach()
    assert not path.exists()


async def test_a_port_that_others_have_is_refused_at_once(switch: VSwitch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        here = f"tcp:127.0.0.1:{taken.getsockname()[1]}"
        said = f"cannot listen on {here}: Address already in use; stop what listens there or use another port"
        with pytest.raises(RefusedError) as caught:
            await switch.attach(f"user://10.0.2.0/24?hostfwd={here}-:22")
        assert said in str(caught.value)
        await switch.attach("user://10.0.2.0/24?name=net")
        with pytest.raises(RefusedError) as caught:
            await switch.user_networks.forward(f"{here}-:22")
        assert str(caught.value) == said
    assert switch.user_networks.forwards() == []


async def test_what_is_wrong_is_said(switch: VSwitch) -> None:
    user = switch.user_networks
    with pytest.raises(MissingError, match="there is no user network; attach one like user://"):
        await user.forward("tcp::0-:22")
    await switch.attach("user://10.0.2.0/24?name=net")
    with pytest.raises(MissingError, match="there is no user network 'nat'; there are net"):
        await user.forward("tcp::0-:22", "nat")
    with pytest.raises(InputError, match="anyone on the network could connect"):
        await user.forward("tcp:0.0.0.0:0-:22")
    info = await user.forward("tcp::0-a:22")
    here = info.forward.partition("-")[0]
    with pytest.raises(InputError, match=f"{here} leads to a already"):
        await user.forward(f"{here}-b:22")
    with pytest.raises(MissingError, match=f"there is no forward 'tcp:127.0.0.1:1'; there are {info.forward}"):
        await user.unforward("tcp:127.0.0.1:1")
    await switch.attach("user://10.0.3.0/24?name=other&insecure=yes")
    with pytest.raises(InputError, match="there are several user networks, net, other; name one"):
        await user.forward("tcp::0-:22")
    assert (await user.forward("tcp:0.0.0.0:0-:22", "other")).network == "other"


async def test_a_configuration_that_is_read_again_changes_forwards_and_nothing_else(switch: VSwitch) -> None:
    def read(*written: str) -> SwitchConfig:
        return SwitchConfig(endpoints=(parse(f"user://10.0.2.0/24?name=net&hostfwd={','.join(written)}"),))

    file = read("tcp::0-a:22", "tcp::0-a:80")
    await switch.configuration.begin(file, lambda: file)
    a = await Guest.plugged_into(switch, "a", MAC)
    await a.lease()
    await until(lambda: [info.ip for info in switch.user_networks.forwards()] == [a.ip] * 2)
    assert [change.diff() for change in await switch.configuration.reload() if change.diff()] == []
    await switch.user_networks.forward("tcp::0-a:99")
    assert "&".join(f"hostfwd=tcp:127.0.0.1:0-a:{port}" for port in (22, 80, 99)) in switch.configuration.saved()
    stays = switch.user_networks.forwards()[1]
    file = read("tcp::0-a:80", "tcp::0-b:22")
    changes = await switch.configuration.reload()
    assert [change.diff() for change in changes] == [
        [
            "- net  hostfwd=tcp:127.0.0.1:0-a:22",
            "- net  hostfwd=tcp:127.0.0.1:0-a:99",
            "+ net  hostfwd=tcp:127.0.0.1:0-b:22",
        ]
    ]
    first, second = switch.user_networks.forwards()
    assert (first, forwards.read(second.forward).guest) == (stays, "b")
    await leads(first, a, 80)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        file = read(f"tcp::{port}-a:22", "tcp::0-a:81")
        with pytest.raises(RefusedError, match=f"the rest has changed, but net: cannot listen on tcp:127.0.0.1:{port}"):
            await switch.configuration.reload()
    assert forwards.read(only(switch).forward).guest_port == 81


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


async def test_a_port_that_stays_leads_to_another_guest(switch: VSwitch) -> None:
    port = free_port()
    files = [SwitchConfig(endpoints=(parse(f"user://?name=net&hostfwd=tcp::{port}-{guest}:22"),)) for guest in "ab"]
    await switch.configuration.begin(files[0], lambda: files[1])
    b = await Guest.plugged_into(switch, "b", MAC)
    await b.lease()
    await switch.configuration.reload()
    await until(lambda: only(switch).ip == b.ip)
    await leads(only(switch), b, 22)


async def test_a_port_is_free_again_when_its_forward_is_gone(switch: VSwitch) -> None:
    await switch.attach("user://?name=net")
    a = await Guest.plugged_into(switch, "a", MAC)
    await a.lease()
    port = free_port()
    for _ in range(3):
        info = await switch.user_networks.forward(f"tcp::{port}-a:22")
        await leads(info, a, 22)
        await switch.user_networks.unforward(f"tcp::{port}")


async def test_nobody_else_gets_a_port_whose_guest_is_not_there_yet(switch: VSwitch) -> None:
    await switch.attach("user://?name=net")
    info = await switch.user_networks.forward("tcp::0-a:22")
    with socket.socket() as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="Address already in use"):
            thief.bind(("127.0.0.1", forwards.read(info.forward).host_port))
