"""`vswitch list`."""

import json
import socket
import threading

from tests.cli.program import Home


def test_all_that_run_are_listed(home: Home) -> None:
    assert home.run("list").stdout.split() == ["NAME", "PID", "PORTS", "CONTROL", "SOCKET"]
    with home.serve("unix://a.sock", "--name", "a") as a, home.serve("unix://b.sock", "--name", "b") as b:
        (home.directory / "dead.ctl").touch()
        with socket.socket(socket.AF_UNIX) as mute:
            mute.bind(str(home.control("mute")))
            found = json.loads(home.run("list", "--json").stdout)
            assert [(it["name"], it["pid"], it["ports"]) for it in found] == [("a", a.pid, 0), ("b", b.pid, 0)]
            assert [it["control"] for it in found] == [str(home.control("a")), str(home.control("b"))]
    assert json.loads(home.run("list", "--json").stdout) == []


def test_one_of_another_version_is_listed(home: Home) -> None:
    home.directory.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as other, home.serve("unix://a.sock", "--name", "a"):
        other.bind(str(home.control("other")))
        other.listen()
        other.settimeout(20)

        def answer() -> None:
            for _ in range(2):  # who looks whether it runs, and who asks
                connection, _address = other.accept()
                with connection:
                    if connection.recv(65536):
                        connection.sendall(b"HTTP/1.1 200 OK\r\nvswitch-api: 2\r\ncontent-length: 2\r\n\r\n{}")

        thread = threading.Thread(target=answer)
        thread.start()
        words = [line.split()[:3] for line in home.run("list").stdout.splitlines()[1:]]
        thread.join()
    assert ["other", "?", "?"] in words
