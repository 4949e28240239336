"""What has to change on a running switch so that it is as its configuration says: a plan, made of plain values."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import msgspec

from vswitch.control.config import SwitchConfig
from vswitch.endpoints import together
from vswitch.endpoints.url import EndpointConfig
from vswitch.errors import InputError, RefusedError
from vswitch.ports.policy import Policy

# Of [switch], what a switch keeps as long as it runs.
FIXED = ("name", "table_size", "capture", "capture_memory", "record", "metrics")


class Attach(msgspec.Struct, frozen=True):
    """A new endpoint."""

    name: str
    config: EndpointConfig

    def diff(self) -> list[str]:
        return [f"+ {_line(self.name, self.config)}"]


class Detach(msgspec.Struct, frozen=True):
    """An endpoint goes, with its ports."""

    name: str
    config: EndpointConfig

    def diff(self) -> list[str]:
        return [f"- {_line(self.name, self.config)}"]


class Replace(msgspec.Struct, frozen=True):
    """An endpoint goes, and another takes its place: what cannot change while peers are plugged in."""

    old_name: str
    old: EndpointConfig
    name: str
    config: EndpointConfig

    def diff(self) -> list[str]:
        return [f"- {_line(self.old_name, self.old)}", f"+ {_line(self.name, self.config)}  (its guests reconnect)"]


class SetPolicy(msgspec.Struct, frozen=True):
    """An endpoint's ports go by another policy, while their peers stay."""

    name: str
    old: EndpointConfig
    config: EndpointConfig

    def diff(self) -> list[str]:
        return [f"- {_line(self.name, self.old)}", f"+ {_line(self.name, self.config)}"]


class SetForwards(msgspec.Struct, frozen=True):
    """Other ports lead to the guests of a user network, which stays."""

    name: str
    old: EndpointConfig
    config: EndpointConfig

    def diff(self) -> list[str]:
        old, new = ([str(forward) for forward in config.user.hostfwd] for config in (self.old, self.config))
        gone = [f"- {self.name}  hostfwd={text}" for text in old if text not in new]
        return gone + [f"+ {self.name}  hostfwd={text}" for text in new if text not in old]


class SetRules(msgspec.Struct, frozen=True):
    """The guests of a user network, which stays, reach something else outside."""

    name: str
    old: EndpointConfig
    config: EndpointConfig

    def diff(self) -> list[str]:
        old, new = (
            [f"allow={rule}" for rule in user.allow] + [f"deny={rule}" for rule in user.deny]
            for user in (self.old.user, self.config.user)
        )
        gone = [f"- {self.name}  {text}" for text in old if text not in new]
        return gone + [f"+ {self.name}  {text}" for text in new if text not in old]


class Adopt(msgspec.Struct, frozen=True):
    """An endpoint that is there already is the configuration's."""

    name: str
    config: EndpointConfig

    def diff(self) -> list[str]:
        return []


class SetAgeing(msgspec.Struct, frozen=True):
    """The MAC table forgets after another time."""

    old_s: float
    ageing_s: float

    def diff(self) -> list[str]:
        return [f"- ageing = {self.old_s:g}s", f"+ ageing = {self.ageing_s:g}s"]


Change: TypeAlias = Attach | Detach | Replace | SetPolicy | SetForwards | SetRules | Adopt | SetAgeing


def plan(
    old: SwitchConfig,
    attached: Mapping[str, EndpointConfig],
    new: SwitchConfig,
    others: Mapping[str, EndpointConfig] | None = None,
) -> list[Change]:
    """The changes that make a switch what `new` says, which was made by `old`.

    `attached` are the endpoints that came from a configuration by name, as they were written there, with the policies
    that they have now. `others` came otherwise: they stay, unless the configuration has one of their name or place.
    An endpoint is the same if its name is; one without a name, if its place is, or else it is the next of its kind.
    Raises RefusedError if a change cannot be made while the switch runs.
    """
    others = others or {}
    for fixed in FIXED:
        if getattr(old, fixed) != getattr(new, fixed):
            raise RefusedError(
                f"[switch] {fixed} cannot change while the switch runs; restart it, or leave it as it was"
            )
    changes: list[Change] = []
    if old.ageing_s != new.ageing_s and old.ageing_s is not None and new.ageing_s is not None:
        changes.append(SetAgeing(old.ageing_s, new.ageing_s))
    became = _same(attached, others, new.endpoints)
    changes += [Detach(name, attached[name]) for name in attached if name not in became.values()]
    taken = {*others, *became.values(), *(wanted.name for wanted in new.endpoints if wanted.name is not None)}
    for number, wanted in enumerate(new.endpoints):
        name = became.get(number)
        if name is not None:
            changes += _change(name, (attached.get(name) or others[name]), wanted)
            continue
        _check_not_passed_on(wanted)
        free = together.name_of(wanted, taken) if wanted.name is None else wanted.name
        taken.add(free)
        changes.append(Attach(free, wanted))
    return changes


def _same(
    attached: Mapping[str, EndpointConfig], others: Mapping[str, EndpointConfig], wanted: Sequence[EndpointConfig]
) -> dict[int, str]:
    """Which of the endpoints wanted are there already, by number, and their names."""
    left, found = {**attached, **others}, dict[int, str]()
    for is_same in (_is_named, _has_its_place, _is_of_its_kind, _takes_its_place):
        for number, new in enumerate(wanted):
            if number in found:
                continue
            for name, old in left.items():
                if is_same(name, old, new) and not (is_same is _is_of_its_kind and name in others):
                    found[number] = name
                    del left[name]
                    break
    return found


def _is_named(name: str, old: EndpointConfig, new: EndpointConfig) -> bool:
    return name == new.name


def _has_its_place(name: str, old: EndpointConfig, new: EndpointConfig) -> bool:
    return old.name is None and new.name is None and old.place == new.place


def _is_of_its_kind(name: str, old: EndpointConfig, new: EndpointConfig) -> bool:
    return old.name is None and new.name is None and old.scheme == new.scheme


def result(endpoints: Mapping[str, EndpointConfig], planned: Sequence[Change]) -> dict[str, EndpointConfig]:
    """The endpoints that there will be, by name, once changes are made. Raises InputError if two had one name."""
    gone = {change.name for change in planned if isinstance(change, Detach)}
    gone |= {change.old_name for change in planned if isinstance(change, Replace)}
    found = {name: config for name, config in endpoints.items() if name not in gone}
    for change in planned:
        if isinstance(change, Replace) and change.name in found:
            raise InputError(f"{change.config.url}: there is an endpoint {change.name!r} already")
        if isinstance(change, Attach | Replace | SetPolicy | SetForwards | SetRules):
            found[change.name] = change.config
    return found


def _takes_its_place(name: str, old: EndpointConfig, new: EndpointConfig) -> bool:
    return old.place == new.place


def _change(name: str, old: EndpointConfig, new: EndpointConfig) -> list[Change]:
    becomes = name if new.name is None else new.name
    if becomes == name and _at_rest(old) == _at_rest(new):
        changes: list[Change] = []
        if old.policy != new.policy:
            changes.append(SetPolicy(name, old, new))
        if set(old.user.hostfwd) != set(new.user.hostfwd):
            changes.append(SetForwards(name, old, new))
        if (set(old.user.allow), set(old.user.deny)) != (set(new.user.allow), set(new.user.deny)):
            changes.append(SetRules(name, old, new))
        return changes or [Adopt(name, new)]
    _check_not_passed_on(new)
    return [Replace(name, old, becomes, new)]


def _check_not_passed_on(config: EndpointConfig) -> None:
    if config.scheme == "fd":
        raise RefusedError(f"{config.url}: a descriptor comes to a switch as it starts; restart it, or leave that out")


def _at_rest(config: EndpointConfig) -> EndpointConfig:
    """Without what can change while peers are plugged in."""
    full = config.absolute()
    user = msgspec.structs.replace(full.user, hostfwd=(), allow=(), deny=())
    return msgspec.structs.replace(full, name=None, policy=Policy(), user=user)


def _line(name: str, config: EndpointConfig) -> str:
    return f"{name}  {config.absolute().full_url}"
