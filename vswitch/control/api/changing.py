"""Answers to what changes a switch."""

from vswitch.control import answers, model, operations
from vswitch.control.api.handlers import Asked, Handlers, Switch


class Changing:
    def __init__(self, switch: Switch) -> None:
        self._switch = switch

    @property
    def handlers(self) -> Handlers:
        return {
            operations.NEXT_GUEST: self._next_guest,
            operations.RELOAD: self._reload,
        }

    async def _next_guest(self, asked: Asked) -> model.GuestInfo:
        return model.GuestInfo(mac=await self._switch.stations.next_guest(asked.parameters["name"]))

    async def _reload(self, asked: Asked) -> list[model.ChangeInfo]:
        changes = await self._switch.configuration.reload(dry_run=asked.query.dry_run)
        return [answers.change_info(change) for change in changes]
