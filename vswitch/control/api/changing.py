"""Answers to what changes a switch."""

import logging
import os
from contextlib import ExitStack, closing

from msgspec.structs import replace
from starlette.responses import Response

from vswitch.control import answers, model, operations
from vswitch.control.api.handlers import Asked, Handlers, Named, Switch
from vswitch.control.http import Passed
from vswitch.control.operations import VERSION, VERSION_HEADER
from vswitch.dataplane.frame import VLAN_MAX
from vswitch.endpoints import descriptor as descriptors
from vswitch.endpoints import together
from vswitch.endpoints.url import EndpointConfig, parse
from vswitch.errors import InputError
from vswitch.ports import policy as policies
from vswitch.ports.policy import mac_text, read_mac
from vswitch.values import number


class Changing:
    def __init__(self, switch: Switch) -> None:
        self._switch = switch

    @property
    def handlers(self) -> Handlers:
        return {
            operations.NEXT_GUEST: self._next_guest,
            operations.ATTACH: self._attach,
            operations.DETACH: self._detach,
            operations.SET: self._set,
            operations.PIN: self._pin,
            operations.FORGET: self._forget,
            operations.FLUSH: self._flush,
            operations.PARTITIONS: self._partitions,
            operations.PART: self._part,
            operations.HEAL: self._heal,
            operations.FORWARD: self._forward,
            operations.UNFORWARD: self._unforward,
            operations.SAVED: self._saved,
            operations.RELOAD: self._reload,
            operations.SET_LOG: self._set_log,
        }

    async def _next_guest(self, asked: Asked) -> model.GuestInfo:
        return model.GuestInfo(mac=await self._switch.stations.next_guest(asked.parameters["name"]))

    async def _attach(self, asked: Asked) -> model.EndpointInfo:
        wanted: model.AttachRequest = asked.body
        config = parse(wanted.url, wanted.parameters)
        names = [info.name for info in self._switch.attachments.infos()]
        together.check_watched(config.name or "", config.policy, names)
        with ExitStack() as undo:
            pid = asked.passed.pid if wanted.with_process is True else wanted.with_process
            process = _process(pid) if pid else None
            if process is not None:
                undo.callback(os.close, process)
            if config.scheme == "fd":
                attachment = await self._attach_passed(config, asked.passed)
            else:
                attachment = await self._switch.attachments.attach(config)
            if process is not None:
                self._switch.attachments.end_with(attachment.name, process)
            undo.pop_all()
        (info,) = (info for info in self._switch.attachments.infos() if info.name == attachment.name)
        return info

    async def _attach_passed(self, config: EndpointConfig, passed: Passed) -> Named:
        """What a client has passed on, whatever its number was there."""
        descriptor = passed.take()
        if descriptor is None:
            raise InputError(f"{config.url}: no descriptor came with this; pass it on (SCM_RIGHTS, unix(7))")
        with closing(descriptors.usable(descriptor, config.url)) as usable:  # until it is the endpoint's
            try:
                return await self._switch.attachments.attach(replace(config, fd=descriptor, path=""), passed=usable)
            except InputError as error:  # by the number that the client has
                text = str(error).replace(f"fd://{descriptor}", config.url)
                raise InputError(text, error.parameter) from None

    async def _detach(self, asked: Asked) -> model.Nothing:
        await self._switch.attachments.detach(asked.parameters["name"])
        return model.Nothing()

    async def _set(self, asked: Asked) -> model.PolicyInfo:
        name = asked.parameters["name"]
        policy = self._switch.policies.amend(name, asked.body.parameters)
        parameters = dict(policies.written(policy))
        return model.PolicyInfo(name=name, parameters=parameters, lasts=name in self._switch.attachments)

    async def _pin(self, asked: Asked) -> model.Nothing:
        wanted: model.PinRequest = asked.body
        station = mac_text(read_mac(wanted.mac))
        self._switch.stations.pin(station if wanted.vlan is None else f"{station}@{wanted.vlan}", wanted.port)
        return model.Nothing()

    async def _forget(self, asked: Asked) -> model.Dropped:
        mac, vlan = read_mac(asked.parameters["mac"]), asked.query.vlan
        entries = self._switch.stations.forget(mac, None if vlan is None else _any_vlan(vlan))
        return model.Dropped(entries=entries)

    async def _flush(self, asked: Asked) -> model.Dropped:
        port, vlan = asked.query.port, asked.query.vlan
        entries = await self._switch.stations.flush(port, None if vlan is None else _any_vlan(vlan))
        return model.Dropped(entries=entries)

    async def _partitions(self, asked: Asked) -> list[model.PartitionInfo]:
        return [answers.partition_info(number, it) for number, it in self._switch.policies.partitions.items()]

    async def _part(self, asked: Asked) -> model.PartitionInfo:
        wanted: model.PartitionRequest = asked.body
        found = self._switch.policies
        found.check_known(name for island in wanted.islands for name in island)
        names = [name for island in wanted.islands for name in island]
        if len(set(names)) < len(names) or not all(wanted.islands):
            raise InputError("a port is in one island, and in each island is a port; name each once")
        if len(wanted.islands) + wanted.rest < 2:
            raise InputError("one island is parted from nothing; name another one, or part it from the rest")
        number = found.part(*wanted.islands, rest=wanted.rest)
        return answers.partition_info(number, found.partitions[number])

    async def _heal(self, asked: Asked) -> model.Nothing:
        self._switch.policies.heal(number(asked.parameters["number"], 1, 10**9))
        return model.Nothing()

    async def _forward(self, asked: Asked) -> model.ForwardInfo:
        wanted: model.ForwardRequest = asked.body
        return await self._switch.user_networks.forward(wanted.forward, wanted.network)

    async def _unforward(self, asked: Asked) -> model.Nothing:
        await self._switch.user_networks.unforward(asked.parameters["forward"], asked.query.network)
        return model.Nothing()

    async def _saved(self, asked: Asked) -> Response:
        text = self._switch.configuration.saved().encode(errors="surrogateescape")
        return Response(text, headers={VERSION_HEADER: VERSION}, media_type=operations.SAVED.media)

    async def _set_log(self, asked: Asked) -> model.LogInfo:
        wanted: model.LogInfo = asked.body
        logging.getLogger("vswitch").setLevel(wanted.level.upper())
        return answers.log_info()

    async def _reload(self, asked: Asked) -> list[model.ChangeInfo]:
        changes = await self._switch.configuration.reload(dry_run=asked.query.dry_run)
        return [answers.change_info(change) for change in changes if change.diff()]


def _process(pid: int) -> int:
    """A descriptor that is readable when a process has ended (pidfd_open(2)). Raises InputError if it cannot be had."""
    try:
        return os.pidfd_open(pid)
    except (OSError, ValueError):
        raise InputError("nothing can go with a process of another namespace, or that has ended") from None


def _any_vlan(vlan: int) -> int:
    """One that a port can have: 0 is one on a VDE switch."""
    return number(vlan, 0, VLAN_MAX)
