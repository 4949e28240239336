"""`serve` while peers come and go faster than it can see to them: it stays small, answers, and ends."""

import os
import signal
import threading
import time

from tests.cli.churn import churn
from tests.cli.program import FRESH, STOP_TIMEOUT_S, Home, Serving, rss
from tests.cli.traffic import traffic
from tests.waiting import until

PEERS = int(os.environ.get("CHURN", "6000"))
PER_S = 800
AT_A_TIME = 500
LOOK_S = 0.02
SEED = int(os.environ.get("CHURN_SEED", "1"))
RSS_MORE_MAX = 24 * 2**20


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


class Churning:
    """Churn in a thread, for as long as it takes."""

    def __init__(self, urls: list[str], peers: int) -> None:
        options = {"peers": peers, "per_s": PER_S, "at_a_time": AT_A_TIME, "seed": SEED}
        self._thread = threading.Thread(target=churn, args=(urls,), kwargs=options, name="churn")
        self._thread.start()

    def goes_on(self) -> bool:
        return self._thread.is_alive()

    def join(self) -> None:
        self._thread.join()


def check_balance(totals: dict[str, object]) -> None:
    drops = totals["drops"]
    assert isinstance(drops, dict)
    numbers = {name: value for name, value in totals.items() if isinstance(value, int)}
    left = numbers["tx_frames"] + numbers["queued_frames"] + sum(drops.values())
    assert numbers["rx_frames"] + numbers["copies"] == left


def check_small_again(home: Home, serving: Serving, before: tuple[int, int]) -> None:
    until(lambda: home.get("status")["ports"] == 2, "the peers to go")
    until(lambda: descriptors(serving.pid) <= before[0] + 2, "the descriptors to be closed")
    until(lambda: rss(serving.pid) <= before[1] + RSS_MORE_MAX, "memory to be given back")
    check_balance(home.get("status")["totals"])


def test_however_many_come_and_go_there_are_few_more_ports_than_peers(home: Home) -> None:
    urls = ["unix://churn.sock?name=churn&vlan=7", "tcp://127.0.0.1:0?vlan=7"]
    lan = f"unix://{home.root}/lan.sock"
    with home.serve(*urls, f"{lan}?vlan=8", under=FRESH) as serving, traffic(lan) as passing:
        passing.check()
        before = descriptors(serving.pid), rss(serving.pid)
        tcp = serving.urls["tcp1"].partition("?")[0]
        churning = Churning([f"unix://{home.root}/churn.sock", tcp], PEERS)
        most = 0
        while churning.goes_on():
            status = home.get("status")
            most = max(most, status["ports"])
            check_balance(status["totals"])
            passing.check()
            time.sleep(LOOK_S)  # or most of what the switch does is to answer
        churning.join()
        assert most <= 2 * AT_A_TIME
        check_small_again(home, serving, before)
        passing.check()
        assert home.get("status")["failures"] == 0
        assert "Traceback" not in serving.log


def test_in_the_middle_of_it_a_signal_ends_it(home: Home) -> None:
    with home.serve("tcp://127.0.0.1:0") as serving:
        churning = Churning([serving.urls["tcp1"]], 3 * PER_S)
        until(lambda: home.get("status")["ports"] > 50, "peers to come")
        serving.process.send_signal(signal.SIGTERM)
        assert serving.ended(STOP_TIMEOUT_S) == 0
        churning.join()
