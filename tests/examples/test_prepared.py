"""How to prepare a guest once, for this test run and later ones, and to begin anew within a test."""

from vswitch.testing import Guest, Lan


async def install(guest: Guest) -> None:
    """What takes minutes with an image of your own."""
    (await guest.run("mkdir /srv && echo 'the data' >/srv/data")).check()


async def test_each_begins_with_the_same_data(lan: Lan) -> None:
    db = await lan.guest("db", start="with-data", prepare=install)
    client = await lan.host("client")
    assert await db.get("/srv/data") == b"the data\n"
    await db.run("rm /srv/data")
    await db.restore("with-data")
    assert await db.get("/srv/data") == b"the data\n"
    assert await client.ping(db.ip)
