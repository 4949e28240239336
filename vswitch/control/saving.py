"""A switch as a configuration file says it, which `config.read` reads back."""

import json
import os
from collections.abc import Iterator, Mapping, Set

import msgspec

from vswitch.control.config import SwitchConfig
from vswitch.control.recording import RecordLimits
from vswitch.endpoints.url import EndpointConfig
from vswitch.ports import policy as policies
from vswitch.ports.policy import Policy
from vswitch.values import FLAG, endpoint_of

NUMBERS = {"vlan", "trunk", "native", "qinq", "max_frame", "max_macs"}


def toml(switch: SwitchConfig, endpoints: Mapping[str, EndpointConfig]) -> str:
    """The file of a switch, and of its endpoints by name."""
    tables = [_table("[switch]", _switch(switch))]
    passed_on = {name for name, config in endpoints.items() if config.scheme == "fd" and not config.path}
    for name, config in endpoints.items():
        if name in passed_on:
            tables.append(f"# {config.url} ({name}) was passed on to the switch: a file cannot do that\n")
        else:
            tables.append(_table("[[endpoint]]", _endpoint(name, config, endpoints.keys() - passed_on)))
    return "\n".join(tables)


def _table(header: str, entries: Iterator[tuple[str, str]]) -> str:
    return "".join([f"{header}\n", *(f"{name} = {value}\n" for name, value in entries)])


def _switch(switch: SwitchConfig) -> Iterator[tuple[str, str]]:
    for name, value in (
        ("name", switch.name),
        ("ageing", None if switch.ageing_s is None else f"{switch.ageing_s}s"),
        ("table_size", switch.table_size),
        ("capture", None if switch.capture is None else _readable(os.path.abspath(switch.capture))),
        ("capture_memory", None if switch.capture_memory is None else f"{switch.capture_memory}B"),
        ("metrics", switch.metrics),
        ("record", None if switch.record is None else _limits(switch.record)),
    ):
        if value is not None:
            yield name, _value(value)


def _limits(limits: RecordLimits) -> str:
    return f"{limits.age_s:f}s,{limits.size}B"


def _readable(path: str) -> str | None:
    """A path, unless it has bytes that no text in TOML can have."""
    return path if path.isprintable() else None


def _endpoint(name: str, config: EndpointConfig, in_file: Set[str]) -> Iterator[tuple[str, str]]:
    """Without what is mirrored of endpoints that are not in the file: they were passed on, or have gone."""
    policy = config.policy
    if watched := tuple(watched for watched in policy.mirror_of if {watched, endpoint_of(watched)} & in_file):
        policy = msgspec.structs.replace(policy, mirror_of=watched)
    elif policy.mirror_of:
        policy = msgspec.structs.replace(policy, mirror_of=(), mirror="both", up=False)
    yield "url", _value(msgspec.structs.replace(config.absolute(), policy=Policy()).full_url)
    yield "name", _value(name)
    for parameter, text in policies.written(policy):
        if policies.PARAMETERS[parameter].schema is FLAG:
            yield parameter, "true" if text == "yes" else "false"
        elif parameter in policies.LISTS and "," in text:
            yield parameter, f"[{', '.join(_item(parameter, item) for item in text.split(','))}]"
        else:
            yield parameter, _item(parameter, text)


def _item(parameter: str, text: str) -> str:
    return text if parameter in NUMBERS and text.isdecimal() else _value(text)


def _value(value: str | int) -> str:
    """JSON's texts are TOML's, too, if they are printable."""
    return json.dumps(value, ensure_ascii=False)
