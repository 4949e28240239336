"""How to test a failover: steps for the report, what has to hold all the time, what has to come true."""

from vswitch.testing import Guest, Lan

ADDRESS = "10.0.0.100"
TAKE = f"ip address add {ADDRESS}/24 dev eth0 && arping -A -c 1 -I eth0 {ADDRESS}"


async def answers(client: Guest, address: str) -> bool:
    return (await client.run(f"ping -c 1 -W 1 {address}")).ok


async def test_another_one_takes_over(lan: Lan) -> None:
    a, b, client = await lan.boot("a", "b", "client")
    with lan.step("a serves"):
        await a.run(TAKE)
        assert await answers(client, ADDRESS)
    with lan.step("a crashes, and b takes over"):
        async with lan.always(lambda: answers(client, b.ip), every=0.5), a.crash():
            assert not await answers(client, ADDRESS)
            await b.run(TAKE)
            await lan.eventually(lambda: answers(client, ADDRESS), within=10)
    await lan.expect_flow(client, b, protocol="ICMP")
