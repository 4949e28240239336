"""The hot path guarded by its shape: what is done for each frame or run makes no generic Python call.

mypyc is asked for its C; each call in a hot function must be to native code, or be listed here with its reason.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Calls of the interpreter's that cost what native code costs: reference counts, allocation, and error paths.
NATIVE = re.compile(
    r"CPyDef_\w+|CPy_(INCREF|DECREF|XDECREF|AddTraceback|DecRef|TypeError\w*|SetRef\w*|NoErrOccur\w*)\w*"
    r"|CPyDef_|CPyBytes_(ReadI\w+|RangeCheck|AdjustIndex|GetItemUnsafe|GetSlice)|CPyBytesWriter_\w+|BytesWriter_\w+"
    r"|LibRTStrings_\w+|VecI64\w*|CPyList_(GetItemInt64\w*|GetItemShort\w*|GetItemUnsafe|Append)|PyList_Append"
    r"|CPyTagged_(FromSsize_t|FromInt64|ShortFromSsize_t|AsSsize_t|DecRef|IncRef|XDecRef)|CPyError_\w+|CPyLong_\w+"
    r"|VEC_I64_\w+|offsetof|CPyUInt8_Overflow|CPyTagged_(DECREF|INCREF)|Py_TYPE|PyErr_\w+|PyTuple_\w+|Py_SIZE|PyBytes_GET_SIZE|likely|unlikely|sizeof|if|while|for|return|switch"
    r"|CPyStatics\w*|assert|defined|__builtin_\w+|PyList_GET_SIZE|CPy_Unreachable|CPyInt64_\w+|CPyInt\d*_\w+"
)

# What raises an error: its class is called, once for each that there is.
RAISES = {"CPy_Raise", "PyObject_Vectorcall", "CPyStr_Build", "PyObject_Str", "PyLong_FromLongLong"}

# Each hot function, and the generic calls it may make.
HOT: dict[str, set[str]] = {
    "bridge___Bridge___ingress": set(),
    "bridge___Bridge____classify": set(),
    "bridge___Bridge____admit": set(),
    "bridge___Bridge____learn_and_look_up": set(),
    "bridge___Bridge____between": set(),
    "bridge___Bridge____repeat": set(),
    "bridge___Bridge____forward": set(),
    "bridge___Bridge____forward_selected": set(),
    "bridge___Bridge____queue": set(),
    "bridge___Bridge____queue_rebuilt": set(),
    "bridge___Bridge____to_be_flushed": set(),
    "bridge___Bridge____ingress_judged": set(),
    "bridge___Bridge____judge": set(),
    "mac_table___MacTable___learn": set(),
    "mac_table___MacTable___lookup": set(),
    "mac_table___MacTable____probe": set(),
    "mac_table___MacTable___home": set(),
    "frame___frame_length": set(),
    "frame___wire_tag": set(),
    "frame___count_frames": set(),
    "frame___last_boundary": set(),
    "frame___copy": set(),
    "vlan___PortVlans___classify": set(),
    "vlan___PortVlans___carries": set(),
    "vlan___PortVlans___sends_as_is": set(),
    "vlan___form_of": set(),
    "vlan___retag": set(),
    "policy___Limiter___passes": set(),
    "policy___IngressPolicy___check_frame": set(),
    "policy___IngressPolicy___check_station": set(),
    "policy___IngressPolicy___check_flood": set(),
    "policy___EgressPolicy___apply": set(),
    "policy___may_be_control": set(),
    "bridge___Bridge____queue_unfinished": set(),
    "bridge___Bridge____count_finished": set(),
    "offload___Finisher___finish": set(),
    "offload___finish": set(),
    "offload____segment": set(),
    "offload____sum_up": set(),
    "offload___sum_of": set(),
    "offload___Segments____take_sums": set(),
    "offload___Segments___append": set(),
    "offload___header_of": set(),
    "datagram____append": set(),
    "datagram___SharedSource___inject": set(),
    "tunnel___TunnelSocket____is_same": set(),
    "tunnel___flow_hash": set(),
    "joining___Joiner____begins": set(),
    "joining___Joiner____follows": set(),
    "joining___Joiner____has_same_addresses": set(),
    "joining___Joiner____is_right": set(),
    "tunnel____mix": set(),
    "guest_memory___GuestMemory___find": set(),
    "guest_memory___GuestMemory____find": set(),
    "guest_memory___GuestMemory___place": set(),
    "virtqueue___Virtqueue___take": set(),
    "virtqueue___Virtqueue___available": RAISES | {"CPy_AttributeError"},
    "virtqueue___Virtqueue____walk": RAISES,
    "virtqueue___Virtqueue____add": RAISES,
    "virtqueue___Virtqueue___give": set(),
    "vhost_link___VhostLink____take_frame": {"PyBytes_Check"},  # of a region's content
    "port___Port___enqueue": set(),
    "port___Port____charge": set(),
}


@pytest.fixture(scope="module")
def functions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The C of each function of the data plane, by its name."""
    from mypyc.build import mypycify

    target = tmp_path_factory.mktemp("c")
    sources = sorted(str(path) for path in (ROOT / "vswitch/dataplane").glob("*.py"))
    options = ["--config-file=", "--strict", "--follow-imports=skip", f"--cache-dir={target}/cache"]
    mypycify([*options, *sources], target_dir=str(target), group_name="shape")
    text = "\n".join(path.read_text() for path in target.rglob("*.c"))
    bodies = re.findall(r"^[\w *]+?\bCPyDef_(\w+)\([^;{]*\)\s*\{\n(.*?)^\}", text, re.MULTILINE | re.DOTALL)
    return dict(bodies)


@pytest.mark.parametrize("name", HOT)
def test_no_generic_call_where_every_frame_passes(functions: dict[str, str], name: str) -> None:
    calls = set(re.findall(r"\b([A-Za-z_]\w*)\s*\(", functions[name]))
    generic = {call for call in calls if not NATIVE.fullmatch(call)}
    assert generic <= HOT[name]
    if generic & RAISES:
        assert functions[name].count("PyObject_Vectorcall(") <= functions[name].count("CPy_Raise(")


def test_the_guard_sees_generic_calls(functions: dict[str, str]) -> None:
    """In the loop, once a batch, there are some: the descriptor's epoll is a Python object."""
    calls = set(re.findall(r"\b([A-Za-z_]\w*)\s*\(", functions["loop___Loop___turn"]))
    assert any(not NATIVE.fullmatch(call) for call in calls)
