"""What a switch's command line and configuration file say, and how a switch that runs becomes like it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec
import trio

from vswitch.control import changes
from vswitch.control.changes import Attach, Change, Detach, Replace, SetAgeing, SetPolicy
from vswitch.control.config import SwitchConfig
from vswitch.endpoints import together
from vswitch.endpoints.url import EndpointConfig
from vswitch.errors import InputError, RefusedError, VSwitchError
from vswitch.ports.policy import Policy
from vswitch.ports.ports import Ports
from vswitch.switch.attachments import Attachment, Attachments

Read = Callable[[], SwitchConfig]


class Configuration:
    """A configuration that can be read again, and the endpoints that came from it."""

    def __init__(self, ports: Ports, attachments: Attachments) -> None:
        self._ports = ports
        self._attachments = attachments
        self._read: Read | None = None
        self._last = SwitchConfig()
        self._written: dict[str, EndpointConfig] = {}  # by the name of the endpoint that it has become
        self._changing = trio.Lock()

    async def begin(self, config: SwitchConfig, read: Read | None = None) -> list[Attachment]:
        """Attach the endpoints of a configuration, which `read` reads again for `reload`. Raises as `attach` does."""
        attached = []
        for endpoint in config.endpoints:
            attachment = await self._attachments.attach(endpoint)
            self._written[attachment.name] = endpoint
            attached.append(attachment)
        self._attachments.check_mirrors()
        self._last, self._read = config, read
        return attached

    async def reload(self, *, dry_run: bool = False) -> list[Change]:
        """Read the configuration again, and become like it; answers what has changed, or would.

        Ports whose endpoints stay lose no frame. Endpoints that were attached otherwise stay. Raises InputError and
        RefusedError: then nothing has changed, unless the text says otherwise.
        """
        if self._read is None:
            raise InputError("this switch has no configuration file; start it with: vswitch serve --config FILE")
        async with self._changing:
            new = self._read()
            planned = changes.plan(self._last, self._now(), new, set(self._attachments) - set(self._written))
            self._check(planned)
            if not dry_run:
                await self._make(planned)
                self._last = new
            return planned

    def _now(self) -> dict[str, EndpointConfig]:
        """Those of its endpoints that are attached still."""
        configs = self._attachments.configs()
        self._written = {name: written for name, written in self._written.items() if name in configs}
        return {
            name: msgspec.structs.replace(written, policy=configs[name].policy)
            for name, written in self._written.items()
        }

    def _check(self, planned: list[Change]) -> None:
        """Whether all goes together in the end. Raises InputError."""
        result = self._attachments.configs()
        for change in planned:
            if isinstance(change, Detach):
                del result[change.name]
            elif isinstance(change, Replace):
                del result[change.old_name]
        for change in planned:
            if isinstance(change, Replace) and change.name in result:
                raise InputError(f"{change.config.url}: there is an endpoint {change.name!r} already")
            if isinstance(change, Attach | Replace | SetPolicy):
                result[change.name] = change.config
        for name, config in result.items():
            others = {other: theirs for other, theirs in result.items() if other != name}
            together.check_policy(config, others, hub=self._ports.bridge.hub)
            together.check_mirror(name, result)

    async def _make(self, planned: list[Change]) -> None:
        """First what can be taken back, and is if anything fails; then what cannot."""
        came: list[Attachment] = []
        try:
            with self._taken_back() as set_policy:
                for change in planned:
                    if isinstance(change, Detach | Replace):  # what it alone may have is others' now
                        set_policy(change.name if isinstance(change, Detach) else change.old_name, Policy(up=False))
                self._set_policies([change for change in planned if isinstance(change, SetPolicy)], set_policy)
                for change in planned:
                    if isinstance(change, Attach):
                        came.append(await self._attach(change))
        except BaseException:
            for attachment in came:
                with trio.CancelScope(shield=True):
                    await attachment.detach()
                self._written.pop(attachment.name, None)
            raise
        for change in planned:
            if isinstance(change, SetPolicy):
                self._written[change.name] = change.config
            elif isinstance(change, SetAgeing):
                self._ports.set_ageing(change.ageing_s)
        await self._replace(planned)

    async def _replace(self, planned: list[Change]) -> None:
        failed = []
        for change in planned:
            if isinstance(change, Detach):
                await self._detach(change.name)
            elif isinstance(change, Replace):
                await self._detach(change.old_name)
                try:
                    await self._attach(change)
                except VSwitchError as error:
                    failed.append(f"{change.name} is gone: {error}")
        if failed:
            raise RefusedError(f"the rest has changed, but {'; '.join(failed)}")

    async def _attach(self, change: Attach | Replace) -> Attachment:
        attachment = await self._attachments.attach(msgspec.structs.replace(change.config, name=change.name))
        self._written[change.name] = change.config
        return attachment

    async def _detach(self, name: str) -> None:
        self._written.pop(name, None)
        if name in self._attachments:
            await self._attachments[name].detach()

    def _set_policies(self, planned: list[SetPolicy], set_policy: Callable[[str, Policy], None]) -> None:
        """In an order in which each goes with the others; where there is none, from none at all. Raises InputError."""
        parked = False
        while planned:
            refused: list[tuple[SetPolicy, InputError]] = []
            for change in planned:
                try:
                    set_policy(change.name, change.config.policy)
                except InputError as error:
                    refused.append((change, error))
            if len(refused) == len(planned):
                if parked:
                    raise refused[0][1]
                parked = True
                for change in planned:
                    set_policy(change.name, Policy(up=False))
            planned = [change for change, _ in refused]

    @contextmanager
    def _taken_back(self) -> Iterator[Callable[[str, Policy], None]]:
        """What it answers sets policies, which are taken back if the block raises an error."""
        before: list[tuple[str, Policy]] = []

        def set_policy(name: str, policy: Policy) -> None:
            old = self._attachments[name].config.policy
            self._attachments.set_policy(name, policy)
            before.append((name, old))

        try:
            yield set_policy
        except BaseException:
            for name, old in reversed(before):
                self._attachments.set_policy(name, old)
            raise
