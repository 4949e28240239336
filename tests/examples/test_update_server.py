"""What a guest does when the server it needs is down, wrong, or there again, without the internet.

What one learns: `lan.user_network` gives guests addresses and names; `lan.internet` is the rest of the world, made up
by the test: always the same answer, or a function of what is asked. What a guest has asked is there to be looked at.
"""

from vswitch.testing import Lan, Request, Response

UPDATE = """#!/bin/sh
# Gets the new version if there is one, and keeps the old one if anything is wrong.
latest=$(wget -q -O- http://update.example.com/latest) || exit 1
wget -q -O /tmp/new "http://update.example.com/$latest" && mv /tmp/new /tmp/installed
"""


async def test_an_update_is_put_off_until_the_server_is_there(lan: Lan) -> None:
    await lan.user_network()
    server = lan.internet.http("update.example.com", 503)
    guest = await lan.guest("a", ip="dhcp")
    await guest.put(UPDATE, "/tmp/update", mode=0o755)
    await guest.put("version 1", "/tmp/installed")

    assert not (await guest.run("/tmp/update")).ok
    assert await guest.get("/tmp/installed") == b"version 1"

    async def files(request: Request) -> Response:
        return Response(body="v2" if request.path == "/latest" else f"version 2, {request.path}")

    lan.internet.http("update.example.com", files)
    (await guest.run("/tmp/update")).check()
    assert await guest.get("/tmp/installed") == b"version 2, /v2"
    assert [request.path for request in server.requests] == ["/latest", "/latest", "/v2"]
