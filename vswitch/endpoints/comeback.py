"""What an endpoint stands on may go, and come back: a path, a device, an interface. Then the endpoint is back, too."""

from collections.abc import Awaitable, Callable

import trio

from vswitch.endpoints.endpoint import log
from vswitch.errors import VSwitchError
from vswitch.sparingly import Sparingly

LOOK_S = 0.5  # how often to look whether what is gone can be had again
SAY_S = 60.0  # and to say why it cannot


async def serve_again(
    who: str,
    what: str,
    serve: Callable[[Callable[[], None]], Awaitable[object]],
    started: Callable[[], None],
    prepare: Callable[[], object] = lambda: None,
    *,
    look_s: float = LOOK_S,
) -> None:
    """Serve until cancelled: `serve` calls what it is given when it has `what`, and returns when that is gone.

    `prepare` is called before each time but the first, which are `look_s` apart. Raises InputError and RefusedError
    before it has `started`.
    """
    has_started = False
    why_not = Sparingly(log, SAY_S)

    def begin() -> None:
        nonlocal has_started
        if has_started:
            log.warning("%s: %s is there again", who, what)
        else:
            started()  # which may refuse
            has_started = True

    while True:
        try:
            await serve(begin)
        except VSwitchError as error:
            if not has_started:
                raise
            why_not.say("%s: %s; will keep trying", who, error)
        await trio.sleep(look_s)
        prepare()
