"""`vswitch flows`."""

from tests.cli.program import Home, connect
from tests.frames import BROADCAST, frame, framed, mac
from tests.waiting import until


def test_why_two_guests_cannot_talk_is_shown(home: Home) -> None:
    urls = [f"unix://{home.root}/{name}.sock?name={name}&vlan={vlan}" for name, vlan in (("web", 10), ("db", 20))]
    with home.serve(*urls, "--record", "1MiB") as serving:
        ends = serving.urls
        with connect(ends["web"]) as web, connect(ends["db"]) as db:
            until(lambda: len(home.get("ports")) == 2, "both are plugged in")
            web.sendall(framed([frame(BROADCAST, mac(1))] * 3))
            db.sendall(framed([frame(mac(1), mac(2), tag=10)]))
            until(lambda: sum(port["rx_frames"] for port in home.get("ports")) == 4, "all have come in")
            found = home.ask("flows")
            assert {(flow["port"], flow["frames"], *flow["drops"].items()) for flow in found["flows"]} == {
                ("web.1", 3, ("no_destination", 3)),
                ("db.1", 1, ("vlan", 1)),
            }
            head, *rows = home.run("flows", "--port", "db").stdout.splitlines()
            assert head.split()[:4] == ["PORT", "SOURCE", "DESTINATION", "VLAN"]
            [row] = rows
            assert row.split()[:4] == ["db.1", "52:54:00:00:00:02", "52:54:00:00:00:01", "10"]
            assert row.endswith("dropped: 1 vlan")
            assert home.ask("flows", "--since", "60s", "--port", "web.1")["flows"][0]["port"] == "web.1"
            done = home.run("flows", "--port", "dbb")
            assert (done.returncode, done.stdout) == (2, "")
            assert "there is no port 'dbb'" in done.stderr
            for wrong in ("9999999999999s", "1e300s"):
                assert home.run("flows", "--since", wrong).returncode == 2
            done = home.run("flows", "--since", "60")
            assert (done.returncode, done.stderr.startswith("vswitch: --since: ")) == (2, True)


def test_without_a_recorder_it_is_said_how_to_have_one(home: Home) -> None:
    with home.serve(f"unix://{home.root}/lan.sock"):
        done = home.run("flows")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == (
            "vswitch: switch 'default' records nothing; start it with --record 60s or --record 64MiB\n"
        )
