"""How log lines look: for people, for the journal, and as JSON for programs."""

import logging
import os
import sys
import time

import msgspec

from vswitch.ports.event import Event

PEOPLE = logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S")
# syslog(3): what the journal takes from the start of a line, sd-daemon(3).
LEVELS = {"error": logging.ERROR, "warning": logging.WARNING, "info": logging.INFO, "debug": logging.DEBUG}
PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


class Journal(logging.Formatter):
    """A priority that journald understands; it knows the time itself."""

    def format(self, record: logging.LogRecord) -> str:
        return f"<{PRIORITIES.get(record.levelno, 6)}>{super().format(record)}"


class Json(logging.Formatter):
    """An object a line: `time` (UTC), `level`, `message`, and of an event its `code`, `ports` and `mac`.

    `lost` is how many lines before it could not be written.
    """

    says_lost = True

    def format(self, record: logging.LogRecord) -> str:
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        said: dict[str, object] = {
            "time": f"{when}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "message": record.getMessage().encode(errors="backslashreplace").decode(),
        }
        if lost := getattr(record, "lost", 0):
            said["lost"] = lost
        event = getattr(record, "event", None)
        if isinstance(event, Event):
            said |= {"code": event.code, "ports": event.ports, "mac": event.mac}
        return msgspec.json.encode(said).decode()


def formatter(name: str) -> logging.Formatter:
    """`text` or `json`; text is for the journal if that is where standard error goes."""
    if name == "json":
        return Json()
    return Journal("%(message)s") if _is_journal() else PEOPLE


def _is_journal() -> bool:
    """systemd.exec(5): JOURNAL_STREAM has the device and inode of the journal's stream."""
    wanted = os.environ.get("JOURNAL_STREAM")
    if not wanted or sys.stderr is None:
        return False
    try:
        found = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return wanted == f"{found.st_dev}:{found.st_ino}"
