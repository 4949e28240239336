"""Network namespaces on a LAN: a TAP device in one, which the switch has the other end of."""

import ctypes
import errno
import fcntl
import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import IPv4Address
from pathlib import Path

from vswitch import interfaces
from vswitch.cli.joining import dhcp_client
from vswitch.cli.joining.dhcp_client import Lease
from vswitch.errors import RefusedError

RESOLV_CONF = "/etc/resolv.conf"
CONTROL_GROUPS = "/sys/fs/cgroup"
# Linux include/uapi/linux/sched.h and mount.h
_CLONE_NEWNS, _CLONE_NEWUSER, _CLONE_NEWNET = 0x0002_0000, 0x1000_0000, 0x4000_0000
_NS_GET_USERNS = 0xB701  # include/uapi/linux/nsfs.h
_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 0x4_0000

_libc = ctypes.CDLL(None, use_errno=True)


def enter_new() -> None:
    """Puts this process in new network and mount namespaces. A user who is not root needs a user namespace for that,
    and stays the same user. Raises RefusedError where the system does not allow it."""
    user, group = os.geteuid(), os.getegid()
    try:
        _check(_libc.unshare(_CLONE_NEWNET | _CLONE_NEWNS | (_CLONE_NEWUSER if user else 0)))
        if user:
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
            Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
        _check(_libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None))
    except OSError as error:
        raise RefusedError(
            f"this system lets this user make no network namespace: {error.strerror}; see sysctl "
            "kernel.unprivileged_userns_clone, user.max_net_namespaces, kernel.apparmor_restrict_unprivileged_userns"
        ) from None
    with suppress(OSError):  # for ping without privileges
        Path("/proc/sys/net/ipv4/ping_group_range").write_text(f"{group} {group}")
    _see_own_devices()


def _see_own_devices() -> None:
    """Has /sys show this network's, with the control groups that there were; without that, the machine's stay."""
    with suppress(OSError):
        groups = os.open(CONTROL_GROUPS, os.O_PATH)
        if not _libc.mount(b"sysfs", b"/sys", b"sysfs", 0, None):
            _libc.mount(f"/proc/self/fd/{groups}".encode(), CONTROL_GROUPS.encode(), None, _MS_BIND | _MS_REC, None)
        os.close(groups)


def enter(path: str) -> None:
    """Puts this process in a network namespace that there is.

    Without root, this takes the user namespace that it belongs to, in which whoever has made that may do everything
    (user_namespaces(7)). Raises RefusedError.
    """
    try:
        with open(path, "rb") as file:
            try:
                _check(_libc.setns(file.fileno(), _CLONE_NEWNET))
            except PermissionError:
                _become_owner(file.fileno())
                _check(_libc.setns(file.fileno(), _CLONE_NEWNET))
    except OSError as error:
        refused = isinstance(error, PermissionError)
        hint = "it takes root, or the user who has made it" if refused else "name one of ip netns, a process or a path"
        raise RefusedError(f"{path}: {error.strerror}; {hint}") from None


def _become_owner(namespace: int) -> None:
    """Puts this process in the user namespace that another namespace belongs to. Raises OSError."""
    owner = fcntl.ioctl(namespace, _NS_GET_USERNS)
    try:
        if os.path.samestat(os.fstat(owner), os.stat("/proc/self/ns/user")):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        _check(_libc.setns(owner, _CLONE_NEWUSER))
    finally:
        os.close(owner)


def make_tap(name: str, mac: str) -> int:
    """The descriptor of a new device, for the switch. Raises RefusedError."""
    try:
        tap = interfaces.make_tap(name, has_header=True)
        interfaces.set_mac(name, mac)
    except OSError as error:
        hint = ""
        if error.errno in (errno.EINVAL, errno.EBUSY, errno.EEXIST):
            hint = f"; there is a {name} already: say another --interface"
        elif error.errno == errno.EACCES:
            hint = f"; have root run: chmod 666 {interfaces.TUN}"
        raise RefusedError(f"cannot make {name}: {error.filename or 'TAP device'}: {error.strerror}{hint}") from None
    return tap


def set_up(name: str, mac: str, host_name: str, static: Lease | None) -> Lease:
    """Has an interface be up, with an address that is said, or given by DHCP. Raises RefusedError."""
    try:
        interfaces.set_up("lo")
        interfaces.set_up(name)
        lease = static or dhcp_client.ask(name, mac, host_name)
        if lease is None:
            raise RefusedError(
                "nobody gives addresses by DHCP on this LAN; say --ip, or have a network: vswitch attach user://10.0.2.0/24"
            )
        if lease.mtu is not None:
            interfaces.set_mtu(name, lease.mtu)
        interfaces.set_address(name, str(lease.address.ip), str(lease.address.netmask))
        if lease.gateway is not None and not interfaces.has_gateway():
            interfaces.set_gateway(str(lease.gateway))
    except OSError as error:
        raise RefusedError(f"cannot set {name} up: {error.strerror}") from None
    return lease


def use_name_servers(servers: Sequence[IPv4Address], domain: str) -> None:
    """Has programs ask these, in this process's mounts. Raises RefusedError."""
    text = f"search {domain}\n" * bool(domain) + "".join(f"nameserver {server}\n" for server in servers)
    with tempfile.NamedTemporaryFile("w", prefix="vswitch-", suffix=".conf") as file:
        file.write(text)
        file.flush()
        Path(file.name).chmod(0o644)
        try:
            _check(_libc.mount(file.name.encode(), os.path.realpath(RESOLV_CONF).encode(), None, _MS_BIND, None))
        except OSError as error:
            raise RefusedError(f"cannot say the name servers in {RESOLV_CONF}: {error.strerror}") from None


def _check(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
