"""FRR, asked by vtysh, which answers in JSON. Other hosts say much of what it knows: nothing in it is trusted."""

import re
import subprocess
from typing import TypeVar

import msgspec

from vswitch.errors import RefusedError

T = TypeVar("T")

TIMEOUT_S = 30.0
ESTABLISHED = "Established"  # RFC 4271 8.2.2

SUMMARY = "show bgp l2vpn evpn summary json"
VNIS = "show evpn vni json"
MACS = "show evpn mac vni all json"


class Peer(msgspec.Struct, frozen=True, rename="camel"):
    state: str
    hostname: str | None = None
    peer_uptime_msec: int = 0
    pfx_rcd: int = 0


class Summary(msgspec.Struct, frozen=True, rename="camel"):
    """Empty where no BGP is configured."""

    peers: dict[str, Peer] = {}


class Vni(msgspec.Struct, frozen=True, rename="camel"):
    """`remote_vteps` are the hosts that have said that they have this VNI."""

    vni: int
    vxlan_if: str
    num_macs: int = 0
    remote_vteps: tuple[str, ...] = ()


class Mac(msgspec.Struct, frozen=True, rename="camel"):
    """A station; its sequence numbers count how often it has moved. One that does so again and again may be two
    (RFC 7432 15)."""

    type: str
    intf: str | None = None
    remote_vtep: str | None = None
    local_sequence: int = 0
    remote_sequence: int = 0
    is_duplicate: bool = False


class Macs(msgspec.Struct, frozen=True):
    macs: dict[str, Mac] = {}


class FrrError(RefusedError):
    """FRR does not answer: `what` is wrong, and what to do."""

    def __init__(self, what: str, advice: str) -> None:
        super().__init__(f"{what}; {advice}")
        self.what = what
        self.advice = advice


def summary(socket: str | None) -> Summary:
    """All three raise FrrError. `socket` is the directory of FRR's sockets, if it is not the usual one."""
    return read(ask(SUMMARY, socket), Summary)


def vnis(socket: str | None) -> dict[str, Vni]:
    return read(ask(VNIS, socket), dict[str, Vni])


def macs(socket: str | None) -> dict[str, Macs]:
    return read(ask(MACS, socket), dict[str, Macs])


def ask(question: str, socket: str | None) -> bytes:
    """What vtysh prints. Raises FrrError."""
    where = ["--vty_socket", socket] if socket is not None else []
    try:
        done = subprocess.run(
            ["vtysh", *where, "-c", question], stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_S
        )
    except FileNotFoundError:
        raise FrrError("there is no vtysh", "install FRRouting (Debian: apt install frr)") from None
    except OSError as error:
        raise FrrError(f"vtysh cannot be run: {error.strerror}", "run this as root") from None
    except subprocess.TimeoutExpired:
        raise FrrError(f"vtysh does not answer within {TIMEOUT_S:.0f} s", "see: systemctl status frr") from None
    if done.returncode:
        raise _refused((done.stdout + done.stderr).decode(errors="replace").strip())
    return done.stdout


def _refused(said: str) -> FrrError:
    if daemon := re.search(r"^(\w+) is not running", said, re.MULTILINE):
        return FrrError(daemon[0], "write bgpd=yes in /etc/frr/daemons, and: systemctl restart frr")
    last = said.splitlines()[-1][:200].rstrip(".") if said else "it refuses"
    return FrrError(f"vtysh: {last}", "run this as root, and see: systemctl status frr")


def read(answer: bytes, kind: type[T]) -> T:
    """Raises FrrError."""
    try:
        return msgspec.json.decode(answer, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        said = f"vtysh answers as no FRR does that is known here: {str(error)[:200]}"
        raise FrrError(said, "see what it says: vtysh -c 'show bgp l2vpn evpn summary json'") from None
