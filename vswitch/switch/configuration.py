"""What a switch's command line and configuration file say, and how a switch that runs becomes like it, and back."""

from collections.abc import Callable
from contextlib import suppress

import msgspec
import trio

from vswitch.control import changes, saving
from vswitch.control.changes import Adopt, Attach, Change, Detach, Replace, SetAgeing, SetForwards, SetPolicy, SetRules
from vswitch.control.config import SwitchConfig
from vswitch.endpoints import together
from vswitch.endpoints.url import EndpointConfig
from vswitch.errors import InputError, RefusedError, VSwitchError
from vswitch.ports.policy import Policy
from vswitch.ports.ports import Ports
from vswitch.switch.attachments import Attachment, Attachments

EXCLUSIVE = ("name", "static", "tpid")  # parameters of which one endpoint's rule out another's

Read = Callable[[], SwitchConfig]


class Configuration:
    """A configuration that can be read again, and the endpoints that came from it."""

    def __init__(self, ports: Ports, attachments: Attachments, fixed: SwitchConfig) -> None:
        self._ports = ports
        self._fixed = fixed
        self._attachments = attachments
        self._read: Read | None = None
        self._last = SwitchConfig()
        self._made: dict[str, tuple[Attachment, EndpointConfig]] = {}  # its endpoints by name, and as written
        self._changing = trio.Lock()

    async def begin(self, config: SwitchConfig, read: Read | None = None) -> list[Attachment]:
        """Attach the endpoints of a configuration, which `read` reads again for `reload`. Raises as `attach` does."""
        attached = []
        for endpoint in config.endpoints:
            attachment = await self._attachments.attach(endpoint)
            self._made[attachment.name] = attachment, endpoint
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
            raise RefusedError("this switch has no configuration file; start it with: vswitch serve --config FILE")
        async with self._changing:
            new = await trio.to_thread.run_sync(self._read, abandon_on_cancel=True)  # a file may be slow
            now, here = self._now(), self._attachments.configs()
            others = {name: config for name, config in here.items() if name not in now}
            planned = changes.plan(self._last, now, new, others)
            self._check(planned)
            if not dry_run:
                deferred = await self._attach_first(planned)
                self._last = new
                await self._make(planned, deferred)
            return planned

    def saved(self) -> str:
        """A configuration file of the switch as it is now.

        What was set on a single port of a listener, and partitions, are not in it.
        """
        last = self._last
        switch = msgspec.structs.replace(
            self._fixed, ageing_s=self._ports.table.ageing / 1000, capture=last.capture, metrics=last.metrics
        )
        return saving.toml(switch, self._attachments.configs())

    def _now(self) -> dict[str, EndpointConfig]:
        """Its endpoints that are attached still, as written, but for the policies and forwards that they have now."""
        here = self._attachments
        self._made = {name: it for name, it in self._made.items() if name in here and here[name] is it[0]}
        return {
            name: msgspec.structs.replace(written, policy=attachment.config.policy, user=attachment.config.user)
            for name, (attachment, written) in self._made.items()
        }

    def _check(self, planned: list[Change]) -> None:
        """Whether all goes together in the end. Raises InputError."""
        before = self._attachments.configs()
        result = changes.result(before, planned)
        for name, config in result.items():
            others = {other: theirs for other, theirs in result.items() if other != name}
            together.check_policy(config, others, hub=self._ports.bridge.hub)
            if config != before.get(name) or before.keys() - result.keys():
                together.check_mirror(name, result)

    async def _attach_first(self, planned: list[Change]) -> list[Attach]:
        """Attach what comes: if it cannot, nothing has changed. Answers what has to wait until others have gone."""
        going = [change for change in planned if isinstance(change, Detach | Replace)]
        came: list[Attachment] = []
        deferred: list[Attach] = []
        try:
            for change in planned:
                if isinstance(change, Attach):
                    if any(
                        _collide(change.config, gone.config if isinstance(gone, Detach) else gone.old) for gone in going
                    ):
                        deferred.append(change)
                        continue
                    try:
                        came.append(await self._attach(change.name, change.config))
                    except InputError as error:
                        if error.parameter not in EXCLUSIVE or len(planned) == 1:
                            raise
                        deferred.append(change)  # as yet, another one has it
        except BaseException:
            with trio.CancelScope(shield=True):
                for attachment in came:
                    await attachment.detach()
            raise
        return deferred

    async def _make(self, planned: list[Change], deferred: list[Attach]) -> None:
        """What cannot be taken back. Raises RefusedError, when all the rest has changed."""
        for change in planned:
            if isinstance(change, SetAgeing):
                self._ports.set_ageing(change.ageing_s)
            elif isinstance(change, SetPolicy | SetForwards | SetRules | Adopt) and change.name in self._attachments:
                self._made[change.name] = self._attachments[change.name], change.config
        left = self._set_policies([change for change in planned if isinstance(change, SetPolicy)])
        replaced: list[tuple[Replace, EndpointConfig]] = []
        for change in planned:
            if isinstance(change, Detach):
                await self._detach(change.name)
            elif isinstance(change, Replace) and change.old_name in self._attachments:
                replaced.append((change, self._attachments[change.old_name].config))
                await self._detach(change.old_name)
        failed = self._set_all_policies(left)
        failed += [self._set_forwards(change) for change in planned if isinstance(change, SetForwards)]
        for change in planned:
            if isinstance(change, SetRules):
                self._attachments.set_rules(change.name, change.config.user)
        failed += [await self._try_attach(change, None) for change in deferred]
        failed += [await self._try_attach(change, was) for change, was in replaced]
        if failed := list(filter(None, failed)):
            raise RefusedError(f"the rest has changed, but {'; '.join(failed)}")

    def _set_forwards(self, change: SetForwards) -> str:
        """Answers what has gone wrong, if something has."""
        try:
            self._attachments.set_forwards(change.name, change.config.user.hostfwd)
        except VSwitchError as error:
            return f"{change.name}: {error}"
        return ""

    async def _try_attach(self, change: Attach | Replace, was: EndpointConfig | None) -> str:
        """Attach, or else put back what `was` there; answers what has gone wrong, if something has."""
        try:
            await self._attach(change.name, change.config)
        except VSwitchError as error:
            if isinstance(change, Attach) or was is None:
                return f"{change.name} has not come: {error}"
            try:
                attachment = await self._attachments.attach(msgspec.structs.replace(was, name=change.old_name))
                self._made[change.old_name] = attachment, change.old
            except VSwitchError:
                return f"{change.old_name} is gone: {error}"
            return f"{change.old_name} is as it was: {error}"
        return ""

    async def _attach(self, name: str, config: EndpointConfig) -> Attachment:
        attachment = await self._attachments.attach(msgspec.structs.replace(config, name=name))
        self._made[name] = attachment, config
        return attachment

    async def _detach(self, name: str) -> None:
        """Unless somebody has detached it meanwhile. A mirror that watches it goes, too, or watches what comes."""
        if name in self._attachments:
            await self._attachments[name].detach()

    def _set_policies(self, planned: list[SetPolicy]) -> list[tuple[SetPolicy, InputError]]:
        """In an order in which each goes with the others; answers those that do not go yet, and why."""
        while True:
            refused: list[tuple[SetPolicy, InputError]] = []
            for change in planned:
                try:
                    self._attachments.set_policy(change.name, change.config.policy)
                except InputError as error:
                    refused.append((change, error))
            if len(refused) == len(planned):
                return refused
            planned = [change for change, _ in refused]

    def _set_all_policies(self, left: list[tuple[SetPolicy, InputError]]) -> list[str]:
        """Those that go only when others have gone, or all at once; answers what has gone wrong."""
        left = self._set_policies([change for change, _ in left])
        for change, _ in left:
            with suppress(InputError):
                self._attachments.set_policy(change.name, Policy(up=False))
        return [
            f"{change.name} is down: {error}" for change, error in self._set_policies([change for change, _ in left])
        ]


def _collide(new: EndpointConfig, gone: EndpointConfig) -> bool:
    """Whether an endpoint may have to wait until another one has gone: one host has many names and addresses, and a
    user network may have a file, or a place where it is asked."""
    if new.scheme in ("tcp", "udp", "vxlan", "l2tpv3"):
        return new.scheme == gone.scheme and new.port == gone.port
    both = ((new.user.leases, gone.user.leases), (new.user.dns_listen, gone.user.dns_listen))
    return new.place == gone.place or any(mine is not None and mine == theirs for mine, theirs in both)
