"""NAT by libslirp, the library behind QEMU's `-netdev user` (libslirp.h, version 4.7 and newer).

It is loaded by cffi without a C compiler. One library serves any number of stacks; each has 16 entries in its ARP and
NDP tables, so each guest gets a stack of its own. ARP, neighbour discovery, DHCP and DNS are not its business here:
a stack is told where its guest is, and gives out IP packets only.
"""

import functools
import ipaddress
import os
import resource
import select
import socket
import struct
import time
from collections.abc import Callable, Iterable, Set
from contextlib import suppress
from ctypes.util import find_library
from typing import Any

import cffi  # type: ignore[import-untyped]

from vswitch.errors import RefusedError
from vswitch.services.user_network.settings import Address, Settings

LIBRARY = "libslirp.so.0"
CONFIG_VERSION = 4
NEEDED = (4, 7)
SOCKETS_MAX, SOCKETS_FEW = 512, 16  # of one stack: at most, and when there are many of all stacks
# Of all stacks, a third of a megabyte each: from SOCKETS_MANY on nobody gets many, beyond SOCKETS_LIMIT nobody any.
SOCKETS_MANY, SOCKETS_LIMIT = 1800, 2200
SPARE = 256  # descriptors for others; the name server may need 160 for connections
_FORWARD_UDP = 1  # a flag (libslirp.h)
QUIET_MS = 1000  # how often a stack that has no timer running asks to be looked at (slirp.c)

_DECLARATIONS = """
    typedef struct Slirp Slirp;
    struct in_addr { uint32_t s_addr; };
    struct in6_addr { uint32_t s6_addr32[4]; };  // aligned as C has it
    typedef ssize_t (*SlirpReadCb)(void *buf, size_t len, void *opaque);
    typedef ssize_t (*SlirpWriteCb)(const void *buf, size_t len, void *opaque);
    typedef void (*SlirpTimerCb)(void *opaque);
    typedef int (*SlirpAddPollCb)(int fd, int events, void *opaque);
    typedef int (*SlirpGetREventsCb)(int idx, void *opaque);
    typedef struct SlirpCb {
        SlirpWriteCb send_packet;
        void (*guest_error)(const char *msg, void *opaque);
        int64_t (*clock_get_ns)(void *opaque);
        void *(*timer_new)(SlirpTimerCb cb, void *cb_opaque, void *opaque);
        void (*timer_free)(void *timer, void *opaque);
        void (*timer_mod)(void *timer, int64_t expire_time, void *opaque);
        void (*register_poll_fd)(int fd, void *opaque);
        void (*unregister_poll_fd)(int fd, void *opaque);
        void (*notify)(void *opaque);
        void (*init_completed)(Slirp *slirp, void *opaque);
        void *(*timer_new_opaque)(int id, void *cb_opaque, void *opaque);
    } SlirpCb;
    typedef struct SlirpConfig {
        uint32_t version;
        int restricted;
        bool in_enabled;
        struct in_addr vnetwork, vnetmask, vhost;
        bool in6_enabled;
        struct in6_addr vprefix_addr6;
        uint8_t vprefix_len;
        struct in6_addr vhost6;
        const char *vhostname, *tftp_server_name, *tftp_path, *bootfile;
        struct in_addr vdhcp_start, vnameserver;
        struct in6_addr vnameserver6;
        const char **vdnssearch;
        const char *vdomainname;
        size_t if_mtu, if_mru;
        bool disable_host_loopback, enable_emu;
        void *outbound_addr, *outbound_addr6;
        bool disable_dns, disable_dhcp;
    } SlirpConfig;
    Slirp *slirp_new(const SlirpConfig *cfg, const SlirpCb *callbacks, void *opaque);
    void slirp_cleanup(Slirp *slirp);
    void slirp_pollfds_fill(Slirp *slirp, uint32_t *timeout, SlirpAddPollCb add_poll, void *opaque);
    void slirp_pollfds_poll(Slirp *slirp, int select_error, SlirpGetREventsCb get_revents, void *opaque);
    void slirp_input(Slirp *slirp, const uint8_t *pkt, int pkt_len);
    int slirp_add_hostxfwd(Slirp *slirp, const void *host, uint32_t host_size, const void *guest, uint32_t guest_size,
                           int flags);
    int slirp_remove_hostxfwd(Slirp *slirp, const void *host, uint32_t host_size, int flags);
    const char *slirp_version_string(void);
"""


class Library:
    """libslirp, loaded. Raises RefusedError if there is none, or one that is too old."""

    def __init__(self) -> None:
        self.ffi, self._lib = _load()
        version = self.ffi.string(self._lib.slirp_version_string()).decode()
        if tuple(int(part) for part in version.split("-")[0].split(".")[:2]) < NEEDED:
            raise RefusedError(f"libslirp {version} is too old; 4.7 is needed (Debian and Ubuntu: package libslirp0)")
        self.version: str = version
        self.sockets = 0  # that the stacks have
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1] - SPARE
        self.sockets_limit = min(SOCKETS_LIMIT, limit if limit > 0 else SOCKETS_LIMIT)
        self.sockets_many = min(SOCKETS_MANY, self.sockets_limit * 3 // 4)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lib, f"slirp_{name}")


@functools.cache
def _load() -> tuple[Any, Any]:
    ffi = cffi.FFI()
    ffi.cdef(_DECLARATIONS)
    for name in (LIBRARY, find_library("slirp")):
        if name is not None:
            try:
                return ffi, ffi.dlopen(name)
            except OSError:
                continue
    raise RefusedError("the library libslirp is missing; install it (Debian and Ubuntu: package libslirp0)")


# SLIRP_POLL_IN, OUT, PRI, ERR and HUP, in the order of their bits, as poll(2) has them.
_EVENTS = (select.POLLIN, select.POLLOUT, select.POLLPRI, select.POLLERR, select.POLLHUP)
_TO_POLL = [sum(event for bit, event in enumerate(_EVENTS) if number >> bit & 1) for number in range(32)]
_FROM_POLL = {events: number for number, events in enumerate(_TO_POLL)}


class Pool:
    """The descriptors that all stacks wait for, with those of others."""

    def __init__(self, library: Library) -> None:
        self._poll = select.poll()
        self._registered: dict[int, int] = {}
        self._wanted: dict[int, int] = {}
        self._ready: dict[int, int] = {}
        self._timeout = library.ffi.new("uint32_t *")
        self._fill, self._have_polled = library.pollfds_fill, library.pollfds_poll
        self._null = library.ffi.NULL
        self._left_out: Set[int] = set()
        self._add = library.ffi.callback("int(int, int, void *)", self._add_descriptor, error=0)
        self._found = library.ffi.callback("int(int, void *)", self._events_of, error=0)

    def wait(self, stacks: Iterable["Stack"], others: dict[int, int], timeout_ms: int) -> dict[int, int]:
        """Waits until something is to be done for a stack, and has it done; answers the events of the others."""
        self._wanted = dict(others)
        soonest_ms = timeout_ms
        busy = [stack for stack in stacks if stack.is_busy]
        for stack in busy:
            before = len(self._wanted)
            self._timeout[0] = QUIET_MS
            self._left_out = stack.listeners.keys() if stack.is_full else set()
            self._fill(stack.handle, self._timeout, self._add, self._null)
            # A connection whose socket is closed already may still have to send something again.
            is_asleep = len(self._wanted) == before and self._timeout[0] >= QUIET_MS
            stack.is_busy = not is_asleep or bool(stack.listeners)
            soonest_ms = min(soonest_ms, self._timeout[0])
        self._register()
        self._ready = dict(self._poll.poll(soonest_ms))
        for stack in busy:
            self._have_polled(stack.handle, 0, self._found, self._null)
        return {fd: self._ready[fd] for fd in others if fd in self._ready}

    def _register(self) -> None:
        """Has the system told what has changed."""
        if self._wanted == self._registered:
            return
        for fd in self._registered.keys() - self._wanted.keys():
            self._poll.unregister(fd)
        for fd, events in self._wanted.items():
            if self._registered.get(fd) != events:
                self._poll.register(fd, events)
        self._registered = self._wanted

    def _add_descriptor(self, fd: int, events: int, _: object) -> int:
        if fd not in self._left_out:
            self._wanted[fd] = _TO_POLL[events & 31]
        return fd

    def _events_of(self, fd: int, _: object) -> int:
        return _FROM_POLL.get(self._ready.get(fd, 0) & 31, 0)


class Stack:
    """One guest's NAT. `deliver` is called with each frame for the guest, while a frame is put in or in `Pool.wait`.

    It `is_full` while it may not open more sockets, and then its forwards take nobody in.
    It `is_busy` while it has one, or has just been given a frame: the
    others need not be asked what they wait for.
    """

    def __init__(self, library: Library, settings: Settings, *, deliver: Callable[[bytes], None]) -> None:
        ffi, network = library.ffi, settings.network
        self.library = library
        self._input, self._tick, self._null = library.input, library.pollfds_poll, ffi.NULL
        self.is_busy = False
        self.listeners: dict[int, int | None] = {}  # descriptors of its forwards, with the UDP port they lead to
        config = ffi.new("SlirpConfig *")
        config.version = CONFIG_VERSION
        config.in_enabled, config.in6_enabled = settings.ipv4, settings.ipv6
        config.vnetwork.s_addr = _number(network.network_address)
        config.vnetmask.s_addr = _number(network.netmask)
        config.vhost.s_addr = _number(settings.host)
        config.vnameserver.s_addr = _number(settings.dns)
        config.vdhcp_start.s_addr = _number(network.network_address + 15)
        config.vprefix_len = settings.network6.prefixlen
        for place, ip in (
            (config.vprefix_addr6, settings.network6.network_address),
            (config.vhost6, settings.host6),
            (config.vnameserver6, settings.dns6),
        ):
            ffi.memmove(ffi.addressof(place), ip.packed, len(ip.packed))
        config.if_mtu = config.if_mru = settings.mtu
        config.disable_dhcp = True
        self._callbacks = ffi.new("SlirpCb *")
        self.opened: set[int] = set()  # descriptors of its connections
        self._functions = _functions(
            ffi, deliver, self._note_opened, self._note_closed
        )  # which live as long as the stack
        for name, function in self._functions.items():
            setattr(self._callbacks, name, function)
        self.handle = library.new(config, self._callbacks, ffi.NULL)
        if self.handle == ffi.NULL:
            raise RefusedError("libslirp cannot make a network of this configuration")

    @property
    def is_full(self) -> bool:
        count, library = len(self.opened), self.library
        is_crowded = library.sockets >= library.sockets_many and count >= SOCKETS_FEW
        return count >= SOCKETS_MAX or is_crowded or library.sockets >= library.sockets_limit

    def _note_opened(self, fd: int, _: object) -> None:
        self.library.sockets += fd not in self.opened
        self.opened.add(fd)

    def _note_closed(self, fd: int, _: object) -> None:
        self.library.sockets -= fd in self.opened
        self.opened.discard(fd)

    def put(self, frame: bytes) -> None:
        """A frame of the guest's."""
        if not self.is_busy:  # its clock stands still while nobody asks it for anything
            self._tick(self.handle, 1, self._null, self._null)
            self.is_busy = True
        self._input(self.handle, frame, len(frame))

    def socket_names(self) -> set[object]:
        """What the sockets of its connections are called on this machine (getsockname(2))."""
        found = set()
        for fd in self.opened:
            with suppress(OSError):
                sock = socket.socket(fileno=fd)
                try:
                    found.add(sock.getsockname())
                finally:
                    sock.detach()
        return found

    def forward(self, sock: socket.socket, guest: tuple[Address, int], *, udp: bool) -> "Forwarding":
        """Have what comes in by a socket, which is bound, go to a port of the guest's. What comes by IP comes by the
        version that the guest's address is of. Raises OSError."""
        forwarding = Forwarding(self, sock, guest, udp=udp)
        self.is_busy = True
        return forwarding

    def descriptors(self) -> set[int]:
        """Those that it waits for."""
        found: set[int] = set()

        def add(fd: int, *_: object) -> int:
            found.add(fd)
            return fd

        ffi = self.library.ffi
        callback = ffi.callback("int(int, int, void *)", add, error=0)
        self.library.pollfds_fill(self.handle, ffi.new("uint32_t *"), callback, self._null)
        return found

    def close(self) -> None:
        self.library.cleanup(self.handle)
        self.library.sockets -= len(self.opened)
        self.opened.clear()


class Forwarding:
    """A forward of a stack's.

    libslirp binds its sockets itself. Ours, which may be of any family and was bound by others, takes the place of one
    that is bound to no port in particular, until the forward stops.
    """

    def __init__(self, stack: Stack, sock: socket.socket, guest: tuple[Address, int], *, udp: bool) -> None:
        self._stack, self._flags = stack, _FORWARD_UDP if udp else 0
        if not udp:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # who was here before may linger (TIME_WAIT)
            sock.listen()
        sock.setblocking(False)
        library, before = stack.library, stack.descriptors()
        loopback = ipaddress.ip_address("127.0.0.1" if guest[0].version == 4 else "::1")
        here, there = _sockaddr(loopback, 0), _sockaddr(*guest)
        if library.add_hostxfwd(stack.handle, here, len(here), there, len(there), self._flags) < 0:
            raise OSError(library.ffi.errno, os.strerror(library.ffi.errno))
        (self._fd,) = stack.descriptors() - before
        self._spare = socket.socket(fileno=os.dup(self._fd))
        os.dup2(sock.fileno(), self._fd)
        stack.listeners[self._fd] = guest[1] if udp else None

    def stop(self) -> None:
        """What is connected stays so."""
        self._stack.listeners.pop(self._fd, None)
        with self._spare as spare:
            os.dup2(spare.fileno(), self._fd)
            host, port, *_ = spare.getsockname()
        here = _sockaddr(ipaddress.ip_address(host), port)
        self._stack.library.remove_hostxfwd(self._stack.handle, here, len(here), self._flags)


def _functions(
    ffi: Any,
    deliver: Callable[[bytes], None],
    opened: Callable[[int, object], None],
    closed: Callable[[int, object], None],
) -> dict[str, Any]:
    """What a stack calls."""
    buffer, null = ffi.buffer, ffi.NULL

    def send_packet(data: Any, size: int, _: object) -> int:
        deliver(buffer(data, size)[:])
        return size

    return {
        "send_packet": ffi.callback("SlirpWriteCb", send_packet, error=-1),
        "guest_error": ffi.callback("void(const char *, void *)", lambda *_: None),
        "clock_get_ns": ffi.callback("int64_t(void *)", lambda _: time.monotonic_ns()),
        # It has timers for router advertisements only, which are sent by others.
        "timer_new": ffi.callback("void *(SlirpTimerCb, void *, void *)", lambda *_: null),
        "timer_new_opaque": ffi.callback("void *(int, void *, void *)", lambda *_: null),
        "timer_free": ffi.callback("void(void *, void *)", lambda *_: None),
        "timer_mod": ffi.callback("void(void *, int64_t, void *)", lambda *_: None),
        "register_poll_fd": ffi.callback("void(int, void *)", opened),
        "unregister_poll_fd": ffi.callback("void(int, void *)", closed),
        "notify": ffi.callback("void(void *)", lambda _: None),
        "init_completed": ffi.callback("void(Slirp *, void *)", lambda *_: None),
    }


def _number(address: ipaddress.IPv4Address) -> int:
    """As a `struct in_addr` has it: in network order."""
    return int.from_bytes(address.packed, "little")


def _sockaddr(ip: Address, port: int) -> bytes:
    """As C has it: sockaddr_in or sockaddr_in6 (netinet/in.h)."""
    if isinstance(ip, ipaddress.IPv4Address):
        return struct.pack("=H", socket.AF_INET) + struct.pack("!H4s8x", port, ip.packed)
    return struct.pack("=H", socket.AF_INET6) + struct.pack("!HI16sI", port, 0, ip.packed, 0)
