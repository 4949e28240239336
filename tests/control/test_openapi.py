"""The OpenAPI document is true to what is served: schemathesis asks for all that it says there is, and more."""

import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.cli.program import Home

# Answers that go on are not for a client that reads one to its end.
GOING_ON = ("/v1/capture", "/v1/recording", "/v1/events/stream")
# What a schema allows may be wrong all the same: no schema says which names there are.
NO_CHECKS = "positive_data_acceptance"
EXAMPLES, SEED = 10, 1
TIMEOUT_S = 240


@contextmanager
def relayed(path: Path) -> Iterator[int]:
    """A TCP port of this machine that leads to a unix socket, as schemathesis knows no other."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            with suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    server = socket.socket(socket.AF_UNIX)
                    server.connect(str(path))
                    for one, other in ((client, server), (server, client)):
                        threading.Thread(target=pump, args=(one, other), daemon=True).start()

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def pump(one: socket.socket, other: socket.socket) -> None:
    with suppress(OSError):
        while data := one.recv(65536):
            other.sendall(data)
    with suppress(OSError):
        other.shutdown(socket.SHUT_WR)


def test_schemathesis_passes() -> None:
    with tempfile.TemporaryDirectory(prefix="vs-", dir="/tmp") as directory:
        home = Home(Path(directory))
        with home.serve("unix://lan.sock") as serving, relayed(home.control()) as port:
            done = subprocess.run(
                [
                    *(sys.executable, "-m", "schemathesis.cli", "run", f"http://127.0.0.1:{port}/openapi.json"),
                    *(f"--exclude-path={path}" for path in GOING_ON),
                    *("--exclude-checks", NO_CHECKS, "--max-examples", str(EXAMPLES), "--seed", str(SEED)),
                    *("--generation-database", "none", "--suppress-health-check", "all", "--no-color"),
                ],
                cwd=home.root,
                capture_output=True,
                text=True,
                timeout=TIMEOUT_S,
            )
            assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
            assert home.get("failures") == []
            assert "Traceback" not in serving.log
