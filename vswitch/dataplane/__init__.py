"""The data plane: everything that is done per frame, compiled by mypyc as one unit.

    link.receive ── chunk ── bridge.ingress ── runs ── port.enqueue ── link.flush
                                  │
                              mac_table

The unit of work is a *run*: neighbouring frames of one received chunk that go to the same egress,
queued as one slice of the chunk, length prefixes and all, because both sides frame alike.

Rules of this room: bytes, runs and native integers; no trio, no logging, no configuration. Time is an
argument (`now`, in milliseconds); only loop.py looks at a clock, to keep its budget. The control side
writes tables and flags, the code here reads them. Guest input raises nothing: it is a counted drop
with a reason from `port.DROP_REASONS`.
"""


def compiled() -> bool:
    """Whether this is the compiled data plane, not the same code interpreted."""
    return not __file__.endswith(".py")
