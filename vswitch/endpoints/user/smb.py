"""A folder of this machine for guests, by its own SMB server (QEMU's `smb=`, net/slirp.c).

smbd runs once for each connection, as this user, with a configuration and a place for its files that are nobody else's.
"""

import os
import pwd
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vswitch.endpoints.user.guest_forward import GuestForward
from vswitch.errors import RefusedError

PORTS = (139, 445)
SHARE = "qemu"  # as QEMU calls it
OWN_MAX = 88  # bytes of a path, with which those of its sockets fit an address
_PLACES = "/usr/sbin:/usr/local/sbin"  # which users may not have in their path

# Whoever says who he is, is nobody in particular, and has the rights of this user in the folder.
_CONFIGURATION = """\
[global]
private dir = {own}
pid directory = {own}
lock directory = {own}
state directory = {own}
cache directory = {own}
ncalrpc dir = {own}/ncalrpc
log file = {own}/log
smb passwd file = {own}/passwords
interfaces = 127.0.0.1
bind interfaces only = yes
security = user
map to guest = Bad User
load printers = no
printing = bsd
disable spoolss = yes
usershare max shares = 0
[{share}]
path = {folder}
read only = no
guest ok = yes
force user = {user}
"""


@contextmanager
def share(folder: str, server: str) -> Iterator[tuple[GuestForward, ...]]:
    """The servers that guests find at an address, as long as the block runs. Raises RefusedError."""
    program = shutil.which("smbd", path=os.pathsep.join([os.environ.get("PATH", ""), _PLACES]))
    if program is None:
        raise RefusedError("smb: smbd is missing; install it (Debian and Ubuntu: package samba)")
    if not os.path.isdir(folder):
        raise RefusedError(f"smb: {folder} is no folder")
    try:
        user = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        raise RefusedError(f"smb: user {os.geteuid()} has no name; smbd needs one") from None
    with tempfile.TemporaryDirectory(prefix="vswitch-smb-", ignore_cleanup_errors=True) as own:
        if len(os.fsencode(own)) > OWN_MAX:
            raise RefusedError(f"smb: {tempfile.gettempdir()} is too long a path for smbd's sockets; set TMPDIR=/tmp")
        file = Path(own) / "smb.conf"
        file.write_text(_CONFIGURATION.format(own=own, share=SHARE, folder=folder, user=user), errors="surrogateescape")
        command = shlex.join([program, "-l", own, "-s", str(file)])
        yield tuple(GuestForward(server, port, "cmd", command) for port in PORTS)
