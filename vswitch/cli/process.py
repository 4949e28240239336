"""What only the owner of a process may do to it, before it runs a switch."""

import gc
import resource

from vswitch import heap

HEAP_KEPT_BYTES = 64 * 2**20


def prepare() -> None:
    """As many open files as the system allows, a heap that keeps its end, and little for the collector to look at."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    heap.keep(HEAP_KEPT_BYTES)
    gc.collect()
    gc.freeze()
