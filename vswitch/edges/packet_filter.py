"""Which frames a person wants to see, said in the language of tcpdump and Wireshark's capture filters, pcap-filter(7).

libpcap compiles an expression to a BPF program and runs that on a frame. It is loaded when first asked for, by cffi
without a C compiler, so that a switch that filters nothing does without it.

*Compiling may take long.* Names in an expression are looked up: of ports, protocols and networks in files (unless
/etc/nsswitch.conf says otherwise), of hosts in DNS too. There is no switch for it in libpcap, and only its own parser
can tell what is a name. A name server that is silent costs 10 s a name, with the resolver's defaults. Then the
optimizer: its time grows with the square of the length or more, from microseconds to some 10 s at EXPRESSION_BYTES_MAX.
libpcap does neither with the interpreter's lock held, so a worker thread can wait for it while the switch goes on.

*A frame is all there is to go by.* On Linux libpcap takes `inbound`, `outbound` and `ifindex` to be questions to the
kernel. No frame has the answer, and such a filter would silently be wrong (libpcap issue 1482): it is turned away here.
"""

import functools
from collections.abc import Iterator
from ctypes.util import find_library
from typing import Any

import cffi  # type: ignore[import-untyped]

from vswitch.errors import InputError, RefusedError

EXPRESSION_BYTES_MAX = 4096
SNAPLEN_DEFAULT = 262144  # tcpdump's
SNAPLEN_MAX = 0x7FFF_FFFF

_DLT_EN10MB = 1
_NETMASK_UNKNOWN = 0xFFFF_FFFF
_LD_ABS, _LD_CLASS_AND_MODE = 0x20, 0xE7  # BPF_LD | BPF_ABS; of any size
_NEGATIVE = 0x8000_0000  # as an offset: Linux keeps these for what is not in the frame (SKF_AD_OFF)

_DECLARATIONS = """
    struct bpf_insn { unsigned short code; unsigned char jt, jf; unsigned int k; };
    struct bpf_program { unsigned int bf_len; struct bpf_insn *bf_insns; };
    typedef struct pcap pcap_t;
    pcap_t *pcap_open_dead(int linktype, int snaplen);
    int pcap_compile(pcap_t *, struct bpf_program *, const char *expression, int optimize, unsigned int netmask);
    char *pcap_geterr(pcap_t *);
    void pcap_freecode(struct bpf_program *);
    void pcap_close(pcap_t *);
    unsigned int bpf_filter(const struct bpf_insn *, const unsigned char *, unsigned int wirelen, unsigned int buflen);
"""
_FUNCTIONS = ("pcap_open_dead", "pcap_compile", "pcap_geterr", "pcap_freecode", "pcap_close", "bpf_filter")


class PacketFilter:
    """A filter in the pcap language, for whole Ethernet frames without FCS, tagged or not.

    `expression`: pcap-filter(7); the empty one matches everything. In `vlan 10 and arp` what follows `vlan` looks
    behind the tag; without it a tagged frame is no ARP. `ip broadcast` needs a netmask, which a switch has not.
    `snaplen`: 1 to SNAPLEN_MAX, the bytes that the program asks to be kept; it changes nothing in what matches.

    **Making one may block**, for seconds (see above), and cannot be interrupted: where an event loop runs, make it by
    `trio.to_thread.run_sync(PacketFilter, expression, abandon_on_cancel=True)`. With libpcap before 1.8 (2016) only
    one thread at a time may make one. The process's first takes 40 ms more, with the interpreter's lock held.

    Resources: the program's memory, 8 bytes an instruction, freed with the object. No descriptor.
    Errors: InputError with libpcap's own words if the expression is wrong, names something unknown, can match nothing
    or asks for more than a frame tells. RefusedError if there is no libpcap.
    """

    __slots__ = ("_instructions", "_program", "_run", "expression")

    def __init__(self, expression: str, snaplen: int = SNAPLEN_DEFAULT) -> None:
        self.expression = expression
        source = _source(expression)
        if not 1 <= snaplen <= SNAPLEN_MAX:
            raise InputError(f"a snaplen of {snaplen} is out of range; 1 to {SNAPLEN_MAX} bytes")
        ffi, lib = _libpcap()
        self._program: Any = _compile(ffi, lib, source, snaplen)  # which owns the instructions
        self._instructions: Any = self._program.bf_insns
        self._run: Any = lib.bpf_filter

    def matches(self, frame: bytes) -> bool:
        """Whether the filter lets `frame` pass.

        Takes any bytes, copies none and never raises. A frame that ends before what the program comes to look at does
        not match, under `not` neither: so it is with BPF everywhere.
        """
        length = len(frame)
        return self._run(self._instructions, frame, length, length) != 0  # type: ignore[no-any-return]


def is_available() -> bool:
    """Whether there is a libpcap. Loads it, which takes 40 ms the first time."""
    try:
        _libpcap()
    except RefusedError:
        return False
    return True


def _shown(expression: str) -> str:
    return f"filter {expression!r}" if len(expression) <= 200 else f"filter {expression[:200]!r}…"


def _source(expression: str) -> bytes:
    """The expression for C, which would end it at the first NUL."""
    try:
        source = expression.encode()
    except UnicodeEncodeError:
        raise InputError(f"{_shown(expression)} is not UTF-8") from None
    if len(source) > EXPRESSION_BYTES_MAX:
        raise InputError(f"a filter of {len(source)} bytes is too long; at most {EXPRESSION_BYTES_MAX}")
    if b"\0" in source:
        raise InputError(f"{_shown(expression)} has a NUL character in it")
    return source


def _compile(ffi: Any, lib: Any, source: bytes, snaplen: int) -> Any:
    """The program, which frees itself."""
    pcap = lib.pcap_open_dead(_DLT_EN10MB, snaplen)
    if not pcap:
        raise MemoryError
    try:
        program = ffi.new("struct bpf_program *")
        if lib.pcap_compile(pcap, program, source, True, _NETMASK_UNKNOWN) != 0:
            # libpcap has freed what it had of the program.
            reason = ffi.string(lib.pcap_geterr(pcap)).decode(errors="backslashreplace")
            raise InputError(f"{_shown(source.decode())}: {reason}")
    finally:
        lib.pcap_close(pcap)
    program = ffi.gc(program, lib.pcap_freecode)
    if _asks_the_kernel(program):
        raise InputError(
            f"{_shown(source.decode())} looks at what is not in a frame; "
            "do without inbound, outbound, ifindex and negative offsets"
        )
    return program


def _asks_the_kernel(program: Any) -> bool:
    instructions = program.bf_insns[0 : program.bf_len]
    return any(i.code & _LD_CLASS_AND_MODE == _LD_ABS and i.k >= _NEGATIVE for i in instructions)


@functools.cache  # but not of failures: who installs libpcap need not restart the switch
def _libpcap() -> tuple[Any, Any]:
    """cffi's view of libpcap, and libpcap."""
    for name in _library_names():
        ffi = cffi.FFI()
        try:
            lib = ffi.dlopen(name)
        except OSError:
            continue
        ffi.cdef(_DECLARATIONS)
        if all(hasattr(lib, function) for function in _FUNCTIONS):
            return ffi, lib
    raise RefusedError("filters need libpcap, which is not here; install the package libpcap0.8 (libpcap elsewhere)")


def _library_names() -> Iterator[str]:
    yield "libpcap.so.1"
    yield "libpcap.so.0.8"  # what Debian calls the same
    if found := find_library("pcap"):  # which asks ldconfig and the C compiler
        yield found
