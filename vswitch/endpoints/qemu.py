"""What to write on QEMU's side of an endpoint: the `-netdev … -device …` arguments of a guest.

QEMU 7.2 brought the `stream` netdev; it reconnects with `reconnect=` (seconds) from 8.0 to 9.1 and with
`reconnect-ms=` from 9.2. The `socket` netdev is understood by every QEMU, but knows TCP over IPv4 only and
never connects again.
"""

import hashlib
import os
import re
import shlex

from vswitch.endpoints.url import EndpointConfig

Version = tuple[int, int]

STREAM_SINCE: Version = (7, 2)
RECONNECT_SINCE: Version = (8, 0)
RECONNECT_MS_SINCE: Version = (9, 2)


def guest_mac(*identity: str) -> str:
    """A stable address under QEMU's own prefix, derived from names."""
    digest = hashlib.sha256("\0".join(identity).encode()).digest()
    return "52:54:00:" + ":".join(f"{byte:02x}" for byte in digest[:3])


def stream_netdev(config: EndpointConfig, version: Version) -> str | None:
    """The `stream` netdev that meets `config`, or None where a URL cannot say what its peer has to be."""
    if config.scheme == "fd" or version < STREAM_SINCE:
        return None
    server = "on" if config.connect else "off"
    parts = ["stream", "id=net0", f"server={server}"]
    if not config.connect and version >= RECONNECT_MS_SINCE:
        parts.append("reconnect-ms=1000")
    elif not config.connect and version >= RECONNECT_SINCE:
        parts.append("reconnect=1")
    if config.scheme == "unix":
        parts += ["addr.type=unix", f"addr.path={_escaped(os.path.abspath(config.path))}"]
    else:
        parts += ["addr.type=inet", f"addr.host={_escaped(config.host)}", f"addr.port={config.port}"]
    return ",".join(parts)


def socket_netdev(config: EndpointConfig) -> str | None:
    """The `socket` netdev that meets `config`, or None where there is none."""
    if config.scheme != "tcp" or ":" in config.host:
        return None
    side = "listen" if config.connect else "connect"
    return f"socket,id=net0,{side}={config.host}:{config.port}"


def arguments(netdev: str, mac: str) -> str:
    """The arguments to paste."""
    return f"-netdev {_shell_word(netdev)} -device virtio-net-pci,netdev=net0,mac={mac}"


def _shell_word(text: str) -> str:
    """A word for the shell; bytes that are no UTF-8 as bash, zsh and POSIX 2024 write them."""
    if not re.search("[\udc80-\udcff]", text):
        return shlex.quote(text)
    raw = text.encode(errors="surrogateescape")
    word = "".join(chr(byte) if 0x20 <= byte < 0x7F and byte not in b"'\\" else f"\\x{byte:02x}" for byte in raw)
    return f"$'{word}'"


def _escaped(value: str) -> str:
    """A value as QEMU's option parser wants it: a comma is doubled."""
    return value.replace(",", ",,")
