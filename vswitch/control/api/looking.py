"""Answers that say how a switch is, and change nothing."""

from typing import Any

from starlette.responses import Response

from vswitch.control import answers, model, openapi, operations
from vswitch.control.api.handlers import Asked, Handlers, Switch
from vswitch.control.api.responses import Prompt
from vswitch.control.operations import VERSION, VERSION_HEADER
from vswitch.errors import InputError
from vswitch.ports.event import Event


class Looking:
    def __init__(self, switch: Switch) -> None:
        self._switch = switch

    @property
    def handlers(self) -> Handlers:
        return {
            operations.DOCUMENT: self._document,
            operations.STATUS: self._status,
            operations.PORTS: self._ports,
            operations.MACS: self._macs,
            operations.VLANS: self._vlans,
            operations.ENDPOINTS: self._endpoints,
            operations.EVENTS: self._events,
            operations.METRICS: self._metrics,
            operations.INTERNALS: self._internals,
            operations.LOG: self._log,
            operations.TRACE: self._trace,
            operations.FLOWS: self._flows,
            operations.FAILURES: self._failures,
            operations.LEASES: self._leases,
            operations.NAT: self._nat,
            operations.FORWARDS: self._forwards,
        }

    async def _document(self, asked: Asked) -> dict[str, Any]:
        return openapi.document()

    async def _status(self, asked: Asked) -> model.Status:
        return self._switch.status()

    async def _ports(self, asked: Asked) -> list[model.PortInfo]:
        await self._switch.find_processes()
        return self._switch.ports()

    async def _macs(self, asked: Asked) -> list[model.MacInfo]:
        return await self._switch.macs()

    async def _vlans(self, asked: Asked) -> list[model.VlanInfo]:
        return self._switch.vlans()

    async def _endpoints(self, asked: Asked) -> list[model.EndpointInfo]:
        return self._switch.endpoints()

    async def _events(self, asked: Asked) -> list[Event]:
        query: model.EventsRequest = asked.query
        events = self._switch.events.kept(query.since)
        return [event for event in events if not query.code or event.code in query.code]

    async def _metrics(self, asked: Asked) -> Response:
        media = operations.METRICS.media
        return Prompt(await self._switch.metrics(), headers={VERSION_HEADER: VERSION}, media_type=media)

    async def _internals(self, asked: Asked) -> model.Internals:
        return self._switch.internals()

    async def _log(self, asked: Asked) -> model.LogInfo:
        return answers.log_info()

    async def _leases(self, asked: Asked) -> list[model.LeaseInfo]:
        return self._switch.user_networks.leases()

    async def _nat(self, asked: Asked) -> list[model.NatInfo]:
        return await self._switch.user_networks.nat()

    async def _forwards(self, asked: Asked) -> list[model.ForwardInfo]:
        return self._switch.user_networks.forwards()

    async def _trace(self, asked: Asked) -> model.Trace:
        wanted: model.TraceRequest = asked.body
        try:
            frame = bytes.fromhex(wanted.frame)
        except ValueError:
            raise InputError(f"{wanted.frame[:40]!r} is no frame in hex") from None
        return self._switch.trace(wanted.port, frame)

    async def _flows(self, asked: Asked) -> model.FlowsInfo:
        query: model.FlowsRequest = asked.query
        if query.port is not None:
            self._switch.policies.check_known([query.port])
        return await self._switch.captures.flows(query.since_s, query.port)

    async def _failures(self, asked: Asked) -> list[model.FailureInfo]:
        return [answers.failure_info(failure) for failure in self._switch.failures.kept()]
