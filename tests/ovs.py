"""Open vSwitch as an oracle: a learning VLAN switch by others, which is fed frame by frame.

It runs without privileges, kernel module and network: a port of type `dummy` receives a frame by a command, and
sends into a capture file. The clock stands still but for `pass_time`.

What became of a frame is known without waiting for some time. A turn of the main loop of ovs-vswitchd first
forwards one frame of each port, then handles OpenFlow messages, then commands. A frame whose command has been
answered is queued at its port; so it has been forwarded when a barrier that was sent after that is answered.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import struct
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from tests.needs import require
from tests.waiting import TIMEOUT_S, until

BRIDGE = "br0"
SCHEMA = "/usr/share/openvswitch/vswitch.ovsschema"
SHOWN_CHARACTERS_MAX = 8192

FRAME_MIN = 14
MTU = 9000

OPENFLOW_VERSION = 1
OPENFLOW_HEADER = struct.Struct("!BBHI")
HELLO = 0
BARRIER_REQUEST = 18
BARRIER_REPLY = 19

PCAP_HEADER_SIZE = 24
PCAP_RECORD = struct.Struct("=IIII")


class OvsError(Exception):
    """A program of Open vSwitch's ended, did not answer in time, or refused something."""


class OpenVSwitch:
    """A running Open vSwitch with one bridge. `process` is its ovs-vswitchd."""

    def __init__(
        self, directory: Path, ports: Mapping[str, str], process: subprocess.Popen[bytes], stack: ExitStack
    ) -> None:
        self.process = process
        self._directory = directory
        self._names = {str(number): name for number, name in enumerate(ports, 1)}
        self._captures = {name: stack.enter_context(closing(Capture(directory / f"{name}.pcap"))) for name in ports}
        self._commands = stack.enter_context(closing(Commands(directory / "switch.ctl")))
        self._openflow = stack.enter_context(closing(OpenFlow(directory / f"{BRIDGE}.mgmt")))
        self._commands.ask("time/stop")

    def send(self, port: str, frame: bytes) -> dict[str, bytes]:
        """Has a port receive a frame. Returns what was sent on account of it, by port."""
        # Less is taken for the description of a flow, and far more corrupts the memory of ovs-vswitchd.
        assert FRAME_MIN <= len(frame) <= FRAME_MIN + MTU
        self._commands.ask("netdev-dummy/receive", port, frame.hex())
        self._openflow.barrier()
        sent = {}
        for name, capture in self._captures.items():
            if frames := capture.read():
                (sent[name],) = frames
        return sent

    def table(self) -> set[tuple[int, int, str]]:
        """What was learnt: VLAN (0 for none), address and port."""
        rows = self._commands.ask("fdb/show", BRIDGE).splitlines()[1:]
        return {
            (int(vlan), int(address.replace(":", ""), 16), self._names[number])
            for number, vlan, address, _age in map(str.split, rows)
        }

    def forget(self) -> None:
        """Empties the table."""
        self._commands.ask("fdb/flush", BRIDGE)

    def pass_time(self, seconds: int) -> None:
        """Moves the clock. In whole seconds, because an entry's age is counted in the clock's seconds."""
        self._commands.ask("time/warp", str(1000 * seconds))
        self._openflow.barrier()  # entries end in a turn of the main loop

    def set_port(self, port: str, settings: str) -> None:
        """Replaces a port's settings. If they differ, what was learnt at the port is forgotten."""
        configure(
            self._directory,
            *("clear", "port", port, "tag", "trunks", "cvlans", "vlan_mode", "other_config"),
            *("--", "set", "port", port, *settings.split()),
        )


class Capture:
    """A capture file that grows."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)
        self._file.seek(PCAP_HEADER_SIZE)

    def read(self) -> list[bytes]:
        """The frames since the last time."""
        frames = []
        data = self._file.readall()
        at = 0
        while at < len(data):
            _, _, size, _ = PCAP_RECORD.unpack_from(data, at)
            at += PCAP_RECORD.size + size
            assert at <= len(data), "the capture ends within a frame"
            frames.append(data[at - size : at])
        return frames

    def close(self) -> None:
        self._file.close()


class Connection:
    """A connection to ovs-vswitchd; every wait is bounded."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(TIMEOUT_S)
        self._socket.connect(str(path))

    def write(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise OvsError(f"ovs-vswitchd: {error}") from error

    def read(self) -> bytes:
        try:
            data = self._socket.recv(1 << 16)
        except OSError as error:
            raise OvsError(f"ovs-vswitchd: {error}") from error
        if not data:
            raise OvsError("ovs-vswitchd hung up")
        return data

    def close(self) -> None:
        self._socket.close()


class Commands(Connection):
    """What ovs-appctl speaks: JSON-RPC, one request at a time."""

    def ask(self, command: str, *arguments: str) -> str:
        """Executes a command; returns what it prints."""
        self.write(json.dumps({"id": 0, "method": command, "params": arguments}).encode())
        text = self.read()
        while True:
            try:
                answer = json.loads(text)
            except ValueError:  # there is more of it
                text += self.read()
                continue
            if answer["error"] is not None:
                raise OvsError(f"{command}: {answer['error']}")
            return str(answer["result"])


class OpenFlow(Connection):
    """A controller, for nothing but barriers."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._buffer = b""
        self._barriers = 0
        self._request(HELLO)

    def barrier(self) -> None:
        """Waits until ovs-vswitchd comes to this."""
        self._barriers += 1
        self._request(BARRIER_REQUEST)
        while self._message() != (BARRIER_REPLY, self._barriers):
            pass

    def _request(self, kind: int) -> None:
        self.write(OPENFLOW_HEADER.pack(OPENFLOW_VERSION, kind, OPENFLOW_HEADER.size, self._barriers))

    def _message(self) -> tuple[int, int]:
        """Type and transaction of the next message."""
        while True:
            if len(self._buffer) >= OPENFLOW_HEADER.size:
                _, kind, size, transaction = OPENFLOW_HEADER.unpack_from(self._buffer)
                if len(self._buffer) >= size:
                    self._buffer = self._buffer[size:]
                    return kind, transaction
            self._buffer += self.read()


@contextmanager
def open_vswitch(
    ports: Mapping[str, str],
    *,
    ageing_s: int = 300,
    table_size: int = 8192,
    forward_bpdu: bool = False,
    vlan_limit: int = 1,
) -> Iterator[OpenVSwitch]:
    """An Open vSwitch with these ports, each with its settings as `ovs-vsctl set port` takes them.

    Ageing is from 15 s to 3600 s, and the table has room for 10 entries at least. `vlan_limit` is how many tags
    of a frame are looked at. Skips the test without Open vSwitch.
    """
    for program in ("ovs-vswitchd", "ovsdb-server", "ovsdb-tool", "ovs-vsctl"):
        require(shutil.which(program), f"needs {program} (Debian: openvswitch-switch)")
    with ExitStack() as stack:
        # Its path is short enough for unix sockets.
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ovs-")))
        database, listener = directory / "conf.db", directory / "db.sock"
        run("ovsdb-tool", "create", str(database), SCHEMA)
        remote = f"--remote=punix:{listener}"
        stack.enter_context(
            daemon(directory, "ovsdb-server", str(database), remote, f"--unixctl={directory / 'db.ctl'}")
        )
        until(lambda: is_up(listener), "ovsdb-server listens")

        # There are no cached flows, which would lag behind the table.
        settings = f"set Open_vSwitch . other_config:flow-limit=0 other_config:vlan-limit={vlan_limit}"
        configure(directory, "--no-wait", *settings.split())
        options = ("--enable-dummy=override", "--disable-system", f"--unixctl={directory / 'switch.ctl'}")
        process = stack.enter_context(daemon(directory, "ovs-vswitchd", f"unix:{listener}", *options))

        settings = f"add-br {BRIDGE} -- set bridge {BRIDGE} datapath_type=dummy fail_mode=standalone"
        settings += f" other_config:mac-aging-time={ageing_s} other_config:mac-table-size={table_size}"
        settings += f" other_config:forward-bpdu={str(forward_bpdu).lower()}"
        for number, (name, port) in enumerate(ports.items(), 1):
            settings += f" -- add-port {BRIDGE} {name} {port} -- set interface {name} type=dummy"
            settings += f" ofport_request={number} mtu_request={MTU} options:tx_pcap={directory / name}.pcap"
        configure(directory, *settings.split())
        yield OpenVSwitch(directory, ports, process, stack)


def configure(directory: Path, *commands: str) -> None:
    """Has ovs-vsctl change the configuration. Waits until it is in force, unless told not to."""
    run("ovs-vsctl", f"--db=unix:{directory / 'db.sock'}", f"--timeout={TIMEOUT_S:.0f}", *commands)


def run(*command: str) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=2 * TIMEOUT_S)
    if done.returncode or done.stderr:
        raise OvsError(f"{command[0]} ended with status {done.returncode}: {done.stderr}")


@contextmanager
def daemon(directory: Path, program: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A child that is killed at the end, or by the kernel if the test's process dies before."""
    path = directory / f"{program}.log"
    environment = os.environ | dict.fromkeys(
        ("OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"), str(directory)
    )
    command = ["setpriv", "--pdeathsig", "KILL", program, *arguments, "-vsyslog:off", "-vfile:off"]
    with (
        path.open("wb") as log,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment) as process,
    ):
        try:
            yield process
        except OvsError as error:
            error.add_note(f"{program} printed:\n{path.read_text(errors='replace')[-SHOWN_CHARACTERS_MAX:]}")
            raise
        finally:
            process.kill()


def is_up(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(str(path)) == 0
