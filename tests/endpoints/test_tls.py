"""tcp:// with `tls=`: frames between two switches, who is refused and what is said of it, and files."""

import os
import re
import shutil
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from tests.certificates import Authority, authority
from tests.endpoints.kinds import tls_peer
from tests.frames import BROADCAST, frame, mac
from tests.needs import require
from tests.peers import TIMEOUT_S, Peer, check_balance, until, up
from vswitch import InputError, RefusedError, VSwitch
from vswitch.endpoints.guests import qemu
from vswitch.endpoints.stream import endpoint as stream
from vswitch.endpoints.stream import liveness
from vswitch.endpoints.tls import connection, credentials
from vswitch.endpoints.tls.endpoint import AT_LEAST_S, HANDSHAKE_S, HANDSHAKES_MAX
from vswitch.endpoints.tls.files import TlsFiles
from vswitch.endpoints.url import parse
from vswitch.switch import Attachment

OTHERS = Authority()  # whom nobody trusts, if not asked to
NOBODY = 65534


@asynccontextmanager
async def two_switches(listening: str, connecting: str) -> AsyncIterator[tuple[VSwitch, VSwitch, Attachment]]:
    """Two, by what they have in `tls=` and behind it, and the first one's listener."""
    async with VSwitch(name="a") as a, VSwitch(name="b") as b:
        lab = await a.attach(f"tcp://127.0.0.1:0?name=lab&tls={listening}")
        await b.attach(f"{lab.url}?connect&name=uplink&tls={connecting}")
        yield a, b, lab


def said(switch: VSwitch, code: str) -> list[str]:
    return [event.text for event in switch.events.kept() if event.code == code]


# Both ends are this user's, and the certificates say all.


async def test_two_switches_know_each_other_by_name_and_are_one_lan() -> None:
    async with two_switches(authority().files("a"), authority().files("b")) as (a, b, lab):
        await until(lambda: up(a) == {"lab.1"} and up(b) == {"uplink"})
        assert re.fullmatch(r"127\.0\.0\.1:\d+, TLS b\.example", a.ports()[0].peer or "")
        assert b.ports()[0].peer == f"{lab.url}, TLS a.example"
        async with await Peer.plugged_into(a) as one, await Peer.plugged_into(b) as two:
            for number, sender, receiver in ((1, one, two), (2, two, one)):
                large = frame(BROADCAST, mac(number), 69_632)
                await sender.send(large)
                assert await receiver.receive(1) == [large]
        check_balance(a)
        check_balance(b)


@given(sizes=st.lists(st.integers(14, 3000) | st.integers(60_000, 69_632), min_size=1, max_size=40), seed=st.binary())
@settings(max_examples=10, deadline=None)
async def test_frames_of_any_size_and_content_pass_both_ways_at_once(sizes: list[int], seed: bytes) -> None:
    frames = [(seed + bytes([at % 251])) * size for at, size in enumerate(sizes)]

    def own(number: int) -> list[bytes]:
        head = frame(BROADCAST, mac(number), 14)
        return [(head + content)[:size] for content, size in zip(frames, sizes, strict=True)]

    async def exchange(sender: Peer, receiver: Peer, number: int) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sender.send, *own(number))
            assert await receiver.receive(len(sizes)) == own(number)

    async with two_switches(authority().files("a"), authority().files("b")) as (a, b, _):
        await until(lambda: up(a) == {"lab.1"} and up(b) == {"uplink"})
        async with await Peer.plugged_into(a) as one, await Peer.plugged_into(b) as two, trio.open_nursery() as both:
            both.start_soon(exchange, one, two, 1)
            both.start_soon(exchange, two, one, 2)


async def test_what_a_peer_has_sent_before_it_goes_passes(clock: MockClock) -> None:
    """It goes without TLS's own farewell, as a process does that is killed."""
    frames = [frame(BROADCAST, mac(1), 60_000, payload=bytes([number])) for number in range(30)]
    async with VSwitch() as switch, await Peer.plugged_into(switch, name="witness") as witness:
        lab = await switch.attach(f"tcp://127.0.0.1:0?name=lab&tls={authority().files('a')}")
        peer = await tls_peer(await Peer.connected_to(lab.url), "b", server_side=False)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.send, *frames)
            assert await witness.receive(20) == frames[:20]
        peer.stream.socket.shutdown(socket.SHUT_WR)
        assert await witness.receive(10) == frames[20:]
        await until(lambda: up(switch) == {"witness"})
        assert said(switch, "down") == ["lab.1 down: closed by peer"]
        peer.close()


async def test_a_far_side_that_comes_back_is_connected_to_again(clock: MockClock) -> None:
    async with two_switches(authority().files("a"), authority().files("b")) as (a, b, lab):
        await until(lambda: up(b) == {"uplink"})
        await lab.detach()
        await until(lambda: up(b) == set())
        await a.attach(lab.config)
        await until(_hurry(clock, lambda: up(a) == {"lab.1"} and up(b) == {"uplink"}))
        assert said(a, "turned_away") == []


# Who is refused.

WRONG_CA, NOT_KNOWN = "its certificate is not from a CA in our ca.pem", "it refuses our certificate: not from a CA"
EXPIRED, REFUSED = "its certificate has expired", "it refuses our certificate: expired"
ELSEWHERE = "its certificate is not valid for '127.0.0.1'; add tls_name= with a name that it has"
Refusal = tuple[Callable[[], str], Callable[[], str], str, str]
REFUSALS: dict[str, Refusal] = {  # what who listens has, and who connects; what is said by either
    "a client of another CA": (
        lambda: authority().files("a"),
        lambda: OTHERS.files("b", trusts=authority()),
        WRONG_CA,
        NOT_KNOWN,
    ),
    "a server of another CA": (
        lambda: OTHERS.files("a", trusts=authority()),
        lambda: authority().files("b"),
        NOT_KNOWN,
        WRONG_CA,
    ),
    "a client that has expired": (
        lambda: authority().files("a"),
        lambda: authority().files("old", expired=True),
        EXPIRED,
        REFUSED,
    ),
    "a server that has expired": (
        lambda: authority().files("old", expired=True),
        lambda: authority().files("b"),
        REFUSED,
        EXPIRED,
    ),
    "a server of another name": (
        lambda: authority().files("elsewhere", "elsewhere.example"),
        lambda: authority().files("b"),
        "it refuses our certificate",
        ELSEWHERE,
    ),
}


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
async def test_a_certificate_that_is_wrong_is_refused_and_both_sides_say_why(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, refusal: Refusal, version: str
) -> None:
    def most(
        files: TlsFiles, *, connects: bool, read: Callable[..., ssl.SSLContext] = credentials.read
    ) -> ssl.SSLContext:
        context = read(files, connects=connects)
        context.maximum_version = ssl.TLSVersion[version]
        return context

    monkeypatch.setattr(credentials, "read", most)
    listening, connecting, here, there = refusal
    async with two_switches(listening(), connecting()) as (a, b, lab):
        await until(lambda: said(a, "turned_away") and said(b, "no_connection"))
        (turned_away,), (no_connection,) = said(a, "turned_away"), said(b, "no_connection")
        assert re.fullmatch(rf"lab: turned away 127\.0\.0\.1:\d+: {re.escape(here)}.*", turned_away)
        assert no_connection.startswith(f"uplink: cannot connect to {lab.url}?connect: {there}")
        assert up(a) == up(b) == set()
        assert said(b, "up") == []
        for switch, line in ((a, turned_away), (b, no_connection)):
            assert line in [record.message.partition(" (and ")[0] for record in caplog.records]
            assert switch.failures.total == 0
    assert "Traceback" not in caplog.text


async def test_tls_name_is_a_name_that_the_listener_has_instead() -> None:
    elsewhere = authority().files("elsewhere", "elsewhere.example")
    async with two_switches(elsewhere, f"{authority().files('b')}&tls_name=elsewhere.example") as (_, b, _):
        await until(lambda: up(b) == {"uplink"})


async def test_a_client_without_a_certificate_is_turned_away() -> None:
    async with VSwitch() as switch:
        lab = await switch.attach(f"tcp://127.0.0.1:0?name=lab&tls={authority().files('a')}")
        context = ssl.create_default_context(cafile=authority().path)
        stream = await trio.open_tcp_stream("127.0.0.1", lab.config.port)
        tls = trio.SSLStream(stream, context, server_hostname="127.0.0.1")
        with trio.fail_after(TIMEOUT_S), pytest.raises(trio.BrokenResourceError) as broken:
            await tls.receive_some()
        assert "certificate required" in str(broken.value.__cause__)
        await until(lambda: said(switch, "turned_away"))
        assert said(switch, "turned_away")[0].endswith(": it has shown no certificate")
        await stream.aclose()


async def test_with_tls_on_one_side_only_both_say_what_is_missing(clock: MockClock) -> None:
    async with VSwitch() as a, VSwitch() as b, await Peer.plugged_into(b, name="guest") as guest:
        plain = await a.attach("tcp://127.0.0.1:0?name=plain")
        await b.attach(f"{plain.url}?connect&name=uplink&tls={authority().files('b')}")
        await until(lambda: said(b, "no_connection"))
        assert (
            "it has closed the connection in the middle of TLS; look whether it has tls="
            in (said(b, "no_connection")[0])
            or "reset" in (said(b, "no_connection")[0])
        )
        secure = await a.attach(f"tcp://127.0.0.1:0?name=secure&tls={authority().files('a')}")
        await b.attach(f"{secure.url}?connect&name=naked")
        await until(lambda: "naked" in up(b))
        await guest.send(frame(BROADCAST, mac(1)))
        await until(lambda: said(a, "turned_away"))
        assert said(a, "turned_away")[0].endswith(": it does not speak TLS")


@given(rubbish=st.binary(min_size=1, max_size=300))
@settings(max_examples=15, deadline=None)
async def test_rubbish_is_turned_away_and_nothing_else_comes_of_it(rubbish: bytes) -> None:
    async with VSwitch() as switch:
        lab = await switch.attach(f"tcp://127.0.0.1:0?name=lab&tls={authority().files('a')}")
        async with await Peer.connected_to(lab.url) as peer:
            await peer.stream.send_all(rubbish)
            peer.stream.socket.shutdown(socket.SHUT_WR)
            assert await peer.closed()
        await until(lambda: said(switch, "turned_away"))
        assert (switch.ports(), switch.failures.total) == ([], 0)


async def test_rubbish_on_a_connection_that_was_verified_ends_it() -> None:
    async with VSwitch() as switch:
        lab = await switch.attach(f"tcp://127.0.0.1:0?name=lab&tls={authority().files('a')}")
        async with await tls_peer(await Peer.connected_to(lab.url), "b", server_side=False) as peer:
            await until(lambda: up(switch) == {"lab.1"})
            await peer.stream.send_all(b"\x17\x03\x03\x00\x20" + bytes(32))
            await until(lambda: up(switch) == set())
        assert said(switch, "down")[0].startswith("lab.1 down: TLS: decryption failed or bad record mac")
        assert switch.failures.total == 0


async def test_frames_that_are_none_end_the_connection() -> None:
    async with VSwitch() as switch:
        lab = await switch.attach(f"tcp://127.0.0.1:0?name=lab&tls={authority().files('a')}")
        async with await tls_peer(await Peer.connected_to(lab.url), "b", server_side=False) as peer:
            await peer._through.send_all(b"\xff" * 8)
            assert await peer.closed()
        await until(lambda: switch.ports() == [])
        assert "not a QEMU stream" in said(switch, "down")[0]


async def test_a_peer_that_has_new_keys_made_and_reads_nothing_is_bounded() -> None:
    ours, theirs = socket.socketpair()
    here, there = socket.socketpair()
    with ours, theirs, here, there:
        server = connection.TlsConnection(ours, credentials.read(own_files("a"), connects=False))
        client = connection.TlsConnection(theirs, credentials.read(own_files("b"), connects=True), "127.0.0.1")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.handshake)
            await client.handshake()
        server._to_send.write(bytes(connection.PIECE + 1))  # as answers are that nobody takes
        client._tls.write(b"x")
        await client._send()
        with trio.fail_after(TIMEOUT_S):
            assert await server.carry(here) == "it wants new keys again and again"


def own_files(name: str) -> TlsFiles:
    return TlsFiles(*authority().issue(name), authority().path)


# Who says nothing.


async def test_peers_that_say_nothing_hold_nobody_up_for_long_and_are_turned_away(clock: MockClock) -> None:
    async with VSwitch() as switch:
        lab = await switch.attach(f"tcp://127.0.0.1:0?name=lab&tls={authority().files('a')}")
        silent = [await Peer.connected_to(lab.url) for _ in range(2 * HANDSHAKES_MAX)]
        waiting = await Peer.connected_to(lab.url)
        async with trio.open_nursery() as nursery:

            async def hurry() -> None:
                while True:
                    clock.jump(AT_LEAST_S / 10)
                    await trio.sleep(0.001)

            nursery.start_soon(hurry)
            before_s = trio.current_time()
            await tls_peer(waiting, "b", server_side=False)
            assert trio.current_time() - before_s < HANDSHAKES_MAX * 2 * AT_LEAST_S
            await until(lambda: up(switch) == {"lab.1"})
            for peer in silent:
                assert await peer.closed()
            nursery.cancel_scope.cancel()
        assert switch.events.counts["turned_away"] == 2 * HANDSHAKES_MAX
        assert "it has not finished TLS in time" in said(switch, "turned_away")[0]
        assert HANDSHAKE_S > AT_LEAST_S
        waiting.close()


async def test_a_host_that_is_dead_is_missed_on_both_sides(clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    async with two_switches(authority().files("a"), authority().files("b")) as (a, b, _):
        await until(lambda: up(a) == {"lab.1"} and up(b) == {"uplink"})
        monkeypatch.setattr(liveness, "_silent_ms", lambda _: liveness.SILENT_MS)
        await trio.testing.wait_all_tasks_blocked()
        while not (said(a, "down") and said(b, "down")):
            clock.jump(liveness.LOOK_S)
            await trio.sleep(0.005)
        reasons = {said(a, "down")[0].partition(": ")[2], said(b, "down")[0].partition(": ")[2]}
        assert liveness.DEAD in reasons
        assert reasons <= {liveness.DEAD, "closed by peer"}


async def test_a_host_that_connects_again_takes_its_one_port_over(monkeypatch: pytest.MonkeyPatch) -> None:
    async with VSwitch() as switch, await Peer.plugged_into(switch, name="witness") as witness:
        lab = await switch.attach(f"tcp://127.0.0.1:0?name=lab&single&tls={authority().files('a')}")
        async with await tls_peer(await Peer.connected_to(lab.url), "b", server_side=False) as first:
            await until(lambda: "lab" in up(switch))
            async with await tls_peer(await Peer.connected_to(lab.url), "c", server_side=False) as second:
                assert await second.closed()
                assert "TLS b.example has the port" in said(switch, "turned_away")[0]
            monkeypatch.setattr(
                stream, "_is_same_host", lambda before, now: before.family == now.family == socket.AF_INET
            )
            async with await tls_peer(await Peer.connected_to(lab.url), "c", server_side=False) as second:
                assert await first.closed()
                await until(lambda: len(said(switch, "up")) == 3)
                await second.send(frame(BROADCAST, mac(1)))
                assert await witness.receive(1) == [frame(BROADCAST, mac(1))]
        assert said(switch, "down")[0] == "lab down: its host has connected again"


# The files.


@pytest.fixture
def files(directory: Path) -> tuple[Path, Path, Path]:
    """Some of one's own, in a directory that all may look into."""
    directory.chmod(0o755)
    certificate, key = authority().issue("own")
    paths = directory / "cert.pem", directory / "key.pem", directory / "ca.pem"
    for source, path in zip((certificate, key, authority().path), paths, strict=True):
        shutil.copy(source, path)
    return paths


def url(files: tuple[Path, Path, Path]) -> str:
    return f"tcp://127.0.0.1:0?name=lab&tls={','.join(map(str, files))}"


@pytest.mark.parametrize(
    ("wrong", "which"),
    [*((wrong, which) for wrong in ("missing", "no PEM", "damaged") for which in range(3)), ("another's", 1)],
)
async def test_a_file_that_cannot_be_used_is_said_at_once(
    files: tuple[Path, Path, Path], which: int, wrong: str
) -> None:
    path = files[which]
    if wrong == "missing":
        path.unlink()
    elif wrong == "no PEM":
        path.write_bytes(bytes(100))
    elif wrong == "damaged":
        path.write_text(re.sub(r"\n[^-\n]{20}", "\n!", path.read_text()))
    else:
        shutil.copy(authority().issue("b")[1], path)
    async with VSwitch() as switch:
        with pytest.raises(RefusedError) as refused:
            await switch.attach(url(files))
    expected = {
        "missing": f"{path}: No such file or directory; tls= names a certificate, its key and a CA",
        "no PEM": rf"{path}: has no .* in PEM form; tls= names a certificate, its key and a CA",
        "damaged": rf".*{path.name}.*: (cannot be used|the CA's certificate cannot be read).*",
        "another's": f"{path}: is not the key of {files[0]}",
    }
    assert re.fullmatch(expected[wrong], str(refused.value))


async def test_a_key_with_a_passphrase_is_said_to_have_one(files: tuple[Path, Path, Path]) -> None:
    openssl = shutil.which("openssl")
    require(openssl, "openssl not found: install the package openssl")
    assert openssl is not None
    words = ["pkey", "-in", str(files[1]), "-aes128", "-passout", "pass:secret", "-out", f"{files[1]}.locked"]
    await trio.run_process([openssl, *words], capture_stdout=True, capture_stderr=True)
    os.replace(f"{files[1]}.locked", files[1])
    async with VSwitch() as switch:
        with pytest.raises(RefusedError, match="has a passphrase, which nobody can be asked for; use a key without"):
            await switch.attach(url(files))


@contextmanager
def as_nobody() -> Iterator[None]:
    require(os.geteuid() == 0, "only root can act as another user")
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_key_that_this_user_may_not_read_is_said_to_be_so(files: tuple[Path, Path, Path]) -> None:
    files[1].chmod(0o600)
    with as_nobody(), pytest.raises(RefusedError, match=f"key.pem: Permission denied; let user {NOBODY} read it"):
        credentials.read(TlsFiles(*map(str, files)), connects=True)


async def test_an_own_certificate_that_has_expired_is_said_and_one_that_is_renewed_is_used(
    files: tuple[Path, Path, Path], caplog: pytest.LogCaptureFixture, clock: MockClock
) -> None:
    certificate, key = authority().issue("old", expired=True)
    shutil.copy(certificate, files[0])
    shutil.copy(key, files[1])
    async with VSwitch() as a, VSwitch() as b:
        lab = await a.attach(url(files))
        assert f"lab: {files[0]}: certificate has expired; others will refuse it" in caplog.text
        await b.attach(f"{lab.url}?connect&name=uplink&tls={authority().files('b')}")
        await until(lambda: said(b, "no_connection"))
        files[0].write_text("-----BEGIN CERTIFICATE-----\nhalf")
        await until(_hurry(clock, lambda: "what was read before stays in use" in caplog.text))
        renewed = authority().issue("own")
        shutil.copy(renewed[0], files[0])
        shutil.copy(renewed[1], files[1])
        await until(_hurry(clock, lambda: up(b) == {"uplink"}))
    assert caplog.text.count("what was read before stays in use") <= 3  # once for each change


def _hurry(clock: MockClock, condition: Callable[[], bool]) -> Callable[[], bool]:
    """A condition that makes time pass whenever it is looked at."""

    def look() -> bool:
        clock.jump(0.2)
        return condition()

    return look


# What goes with it.


async def test_beyond_loopback_it_needs_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    async with VSwitch() as switch:
        with pytest.raises(
            InputError, match="anyone on the network could connect; add tls= or, if that is meant, inse"
        ):
            await switch.attach("tcp://0.0.0.0:0")
        lab = await switch.attach(f"tcp://0.0.0.0:0?tls={authority().files('a')}")
        assert "may connect" not in caplog.text
        address = lab.url.replace("0.0.0.0", "127.0.0.1")
        async with await tls_peer(await Peer.connected_to(address), "b", server_side=False):
            await until(lambda: len(up(switch)) == 1)


@pytest.mark.parametrize("connect", ["", "&connect"])
def test_no_line_for_qemu_is_made_up(connect: str) -> None:
    with pytest.raises(InputError, match="is TLS, which no netdev of QEMU's has: another vswitch plugs in there"):
        qemu.netdevs(parse(f"tcp://192.0.2.1:7000?tls=a,b,c{connect}"), (10, 0), qemu.named_guest("web"))


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ("tls=a.pem", "tls: needs three files, the certificate, its key and the CA; write it like cert.pem,key.pem,ca"),
        ("tls=a,b,c,d", "tls: needs three files"),
        ("tls=a,b,%00", "cannot be a file's path"),
        ("tls=a,b,", "tls: needs a list"),
        ("tls", "tls: needs a list"),
        ("tls_name=x", "tls_name goes with connect and tls"),
        ("tls=a,b,c&tls_name=x", "tls_name goes with connect and tls"),
        ("connect&tls=a,b,c&tls_name=a..b", "is neither a host's name nor an address"),
        ("single&qmp=/run/q&tls=a,b,c", "qmp: is a guest's"),
    ],
)
def test_what_is_written_wrongly_is_said(parameters: str, said: str) -> None:
    with pytest.raises(InputError) as wrong:
        parse(f"tcp://192.0.2.1:7000?{parameters}")
    assert said in str(wrong.value)


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        ({"subjectAltName": (("DNS", "web\x1b[31m"), ("DNS", "b"))}, "web\\x1b[31m"),
        ({"subjectAltName": (("email", "x"),), "subject": ((("commonName", "lab"),),)}, "lab"),
        ({"subject": ((("commonName", "x" * 999),),)}, "x" * 100),
        ({}, "without a name"),
    ],
)
def test_a_certificates_name_is_safe_to_print(names: dict[str, tuple[object, ...]], shown: str) -> None:
    assert connection._name(names) == shown
