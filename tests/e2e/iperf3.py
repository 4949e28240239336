"""iperf3 in guests and network namespaces: data by TCP, both ways.

Each server serves one client, at a port of its own: to listen again takes one a moment, in which it refuses others.
"""

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import trio

from tests.cli.program import MORTAL

PORTS = range(5201, 5205)
SERVE_IN_GUEST = (
    f"for port in {' '.join(map(str, PORTS))}; do iperf3 -s -1 -D -p $port; done;"
    f" until [ $(netstat -ltn | grep -c ':520') = {len(PORTS)} ]; do usleep 10000; done"
)
HEADERS = 20 + 32  # IPv4, TCP with timestamps
TIMEOUT_S = 30.0


@contextmanager
def serving(inside: Sequence[str], ports: Sequence[int]) -> Iterator[None]:
    """Servers in a namespace that `inside` enters."""
    with ExitStack() as stack:
        for port in ports:
            command = [*MORTAL, *inside, "iperf3", "-s", "-1", "--forceflush", "-p", str(port)]
            process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE))
            stack.callback(process.kill)
            assert process.stdout is not None
            assert any(b"listening" in line for line in process.stdout)
        yield


async def check_both_ways(inside: Sequence[str], address: str, ports: Sequence[int], mtu: int) -> None:
    """Data passes to one server and from another, in segments as long as the smaller MTU of both ends lets them be.

    Nobody may cut those up on the way.
    """
    for port, way in zip(ports, ([], ["-R"]), strict=True):
        command = [*inside, "iperf3", "-c", address, "-p", str(port), "-n", "2M", "--json", *way]
        with trio.fail_after(TIMEOUT_S):
            done = await trio.run_process(command, capture_stdout=True, check=False)
        said = json.loads(done.stdout)
        assert done.returncode == 0, said
        assert said["start"]["tcp_mss_default"] == mtu - HEADERS
        assert said["end"]["sum_received"]["bytes"] > 0
