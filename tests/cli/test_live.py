"""Commands that change a running switch, under traffic that loses nothing."""

import json
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.program import Home, connect, is_one_line
from tests.cli.traffic import traffic
from tests.waiting import until

ONE = "52:54:00:aa:00:01"  # none of the traffic


@pytest.fixture
def lan(home: Home) -> Iterator[str]:
    """The URL of a running switch's listener `lan`, with traffic between two of its guests."""
    url = f"unix://{home.root}/lan.sock"
    with home.serve(f"{url}?name=lan") as serving, traffic(url) as passing:
        yield url
        passing.check()
        assert "Traceback" not in serving.log


def ok(home: Home, *arguments: str) -> list[str]:
    done = home.run(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def refused(home: Home, code: int, *arguments: str) -> str:
    done = home.run(*arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert is_one_line(done.stderr)
    return done.stderr.removeprefix("vswitch: ").rstrip()


def endpoints(home: Home) -> dict[str, str]:
    return {found["name"]: found["url"] for found in home.get("endpoints")}


def test_endpoints_come_and_go(home: Home, lan: str) -> None:
    assert ok(home, "attach", "unix://more.sock?vlan=7") == [f"unix1  unix://{home.root}/more.sock?vlan=7"]
    assert ok(home, "attach", "tcp://127.0.0.1:0?name=web&queue=1MiB")[0].startswith("web  tcp://127.0.0.1:")
    assert list(endpoints(home)) == ["lan", "unix1", "web"]
    with connect(f"unix://{home.root}/more.sock"):
        until(lambda: any(port["endpoint"] == "unix1" for port in home.get("ports")), "the guest to be plugged in")
        assert ok(home, "detach", "unix1") == []
        assert list(endpoints(home)) == ["lan", "web"]
    assert not (home.root / "more.sock").exists()
    assert refused(home, 2, "detach", "unix1") == "there is no endpoint 'unix1'; there are lan, web"
    assert refused(home, 2, "attach", "unix://x.sock?single&mirror_of=typo").endswith(
        "mirror_of: there is no endpoint 'typo'; there are lan, web"
    )
    assert refused(home, 1, "attach", lan).endswith("somebody listens there; use another path")
    assert refused(home, 2, "attach", "unix://x.sock?vlna=1").endswith("did you mean 'vlan'?")
    assert refused(home, 2, "attach", "unix://x.sock?name=lan").startswith("there is an endpoint 'lan' already")


def test_what_a_port_goes_by_changes(home: Home, lan: str) -> None:
    ok(home, "attach", "unix://more.sock?name=more")
    assert ok(home, "port", "set", "more", "vlan=7", "rate=10Mbit/s") == ["more  vlan=7 rate=10000000bit/s"]
    assert ok(home, "port", "set", "more", "trunk=7,8", "rate=") == ["more  trunk=7,8"]
    assert ok(home, "port", "set", "more", "trunk=") == ["more  as usual"]
    assert ok(home, "port", "down", "more") == ["more  up=no"]
    with connect(f"unix://{home.root}/more.sock"):
        until(lambda: any(port["endpoint"] == "more" for port in home.get("ports")), "the guest to be plugged in")
        (one,) = (port["name"] for port in home.get("ports") if port["endpoint"] == "more")
        assert ok(home, "port", "up", one) == [
            f"{one}  as usual",
            "  until its guest disconnects; set it on more for all that come",
        ]
        assert endpoints(home)["more"].endswith("?up=no")
        assert ok(home, "port", "up", "more") == ["more  as usual"]
    assert refused(home, 2, "port", "set", "typo", "vlan=1").startswith("there is no port 'typo'; there are lan, more")
    assert ok(home, "port", "set", "more", "allow_ip=10.0.0.1", "allow_ip=10.0.0.2") == [
        "more  allow_ip=10.0.0.1,10.0.0.2"
    ]
    assert refused(home, 2, "port", "set", "more", "vlan=5", "vlan=") == "parameter 'vlan' is given twice"
    assert refused(home, 2, "port", "set", "more", "queue=1MiB") == (
        "queue cannot change while more is attached; detach it, and attach it anew"
    )
    assert refused(home, 2, "port", "set", "more", "vlan") == "'vlan' is no KEY=VALUE; write it like vlan=10"
    assert refused(home, 2, "port", "set", "more", "vlan=0").startswith("vlan: '0' is not a number")
    assert refused(home, 2, "port", "set", "more", "vlna=1") == "unknown parameter 'vlna'; did you mean 'vlan'?"


def test_mirrors_are_made_and_unmade(home: Home, lan: str) -> None:
    ok(home, "attach", "unix://tap.sock?name=tap")
    assert ok(home, "mirror", "tap", "lan", "--in") == ["tap  mirror_of=lan mirror=in"]
    assert ok(home, "mirror", "tap", "lan") == ["tap  mirror_of=lan"]
    assert ok(home, "mirror", "tap", "--off") == ["tap  as usual"]
    assert refused(home, 2, "mirror", "tap") == "mirror: name the ports to watch, or say --off"


def test_stations_are_added_and_forgotten(home: Home, lan: str) -> None:
    ok(home, "attach", "unix://web.sock?name=web&single=yes")
    assert ok(home, "mac", "add", ONE, "web") == []
    assert ok(home, "mac", "add", ONE, "web", "--vlan", "9") == []
    assert [(found["vlan"], found["port"]) for found in home.get("macs") if found["static"]] == [(1, "web"), (9, "web")]
    assert ok(home, "mac", "flush", "web") == ["0 entries forgotten"]
    assert ok(home, "mac", "del", ONE, "--vlan", "9") == ["1 entry forgotten"]
    assert ok(home, "mac", "del", ONE) == ["1 entry forgotten"]
    assert ok(home, "mac", "flush")[0].endswith("forgotten")
    assert refused(home, 2, "mac", "add", "x", "web") == "'x' is not a MAC address; write it like 52:54:00:12:34:56"
    assert refused(home, 2, "mac", "add", ONE, "lan").endswith("add single=yes")
    assert refused(home, 2, "mac", "flush", "").startswith("there is no port ''")
    assert refused(home, 2, "mac", "flush", "typo").startswith("there is no port 'typo'")
    assert refused(home, 2, "mac", "del", ONE, "--vlan", "4095").startswith("4095 is not a number from 0 to 4094")


@pytest.mark.parametrize(
    "arguments",
    [("port", "set", "lan", "vlan=\udcff"), ("partition", "m\udcff", "lan"), ("mac", "add", "\udcff", "lan")],
)
def test_bytes_that_are_no_text_are_one_line(home: Home, lan: str, arguments: tuple[str, ...]) -> None:
    assert "is no text in UTF-8" in refused(home, 2, *arguments)


def test_ports_are_parted_and_healed(home: Home, lan: str) -> None:
    for name in "abc":
        ok(home, "attach", f"unix://{name}.sock?name={name}")
    assert ok(home, "partition") == ["nothing is parted"]
    assert ok(home, "partition", "a,b", "c") == ["1  a,b | c"]
    assert ok(home, "isolate", "a") == ["2  a | the rest"]
    assert ok(home, "partition") == ["1  a,b | c", "2  a | the rest"]
    assert ok(home, "heal", "1") == []
    assert ok(home, "partition") == ["2  a | the rest"]
    assert ok(home, "heal") == []
    assert ok(home, "partition") == ["nothing is parted"]
    assert refused(home, 2, "heal", "7") == "there is no partition 7; there are none"
    assert refused(home, 2, "partition", "a", "typo").startswith("there is no port 'typo'")
    assert refused(home, 2, "partition", "--rest").startswith("partition: name the ports")
    assert refused(home, 2, "partition", "a,b", "b").startswith("a port is in one island")
    assert refused(home, 2, "partition", "a").startswith("one island is parted from nothing")


def test_what_is_saved_can_be_served(home: Home, lan: str, tmp_path: Path) -> None:
    ok(home, "attach", "unix://web.sock?name=web&single=yes&queue=1MiB")
    ok(home, "port", "set", "web", "trunk=10,20", f"static={ONE}@10")
    assert ok(home, "save", "saved.toml") == []
    text = (home.root / "saved.toml").read_text()
    assert ok(home, "save") == text.splitlines()
    assert ok(home, "check", "saved.toml") == ["saved.toml: right, for 2 endpoints"]
    before = endpoints(home)
    other = Home(tmp_path)
    (other.root / "saved.toml").write_text(text.replace(str(home.root), str(other.root)))
    with other.serve("--config", "saved.toml"):
        assert {name: url.replace(str(other.root), str(home.root)) for name, url in endpoints(other).items()} == before
        assert json.loads(other.run("reload", "--json").stdout) == []
    (home.root / "link.toml").symlink_to("saved.toml")
    (home.root / "saved.toml").chmod(0o600)
    ok(home, "detach", "web")
    assert ok(home, "save", "link.toml") == []
    assert (home.root / "link.toml").is_symlink()
    assert stat.S_IMODE((home.root / "saved.toml").stat().st_mode) == 0o600
    assert (home.root / "saved.toml").read_text().splitlines() == ok(home, "save", "/dev/stdout")
    assert refused(home, 2, "save", "") == "the file has no name"
    assert refused(home, 1, "save", "no/where.toml").startswith("no/where.toml: No such file or directory; make its")
