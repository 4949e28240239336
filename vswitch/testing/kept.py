"""What is kept of a test with a LAN, and where it is told: the report's text, JUnit's XML, pytest-html's page.

Only the standard library, pytest and vswitch.errors are used: the plugin is loaded wherever vswitch is installed.
"""

import base64
import hashlib
import inspect
import os
import re
import secrets
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from vswitch.errors import printable
from vswitch.testing.reports import REPORT

NAME_MAX = 120  # characters of a directory's name
TITLE = "vswitch"


def tell(item: pytest.Item, report: pytest.TestReport, made: list[Any], seed: str) -> None:
    """Keeps what is known of a test's LANs as files, and has the report say so if it has failed.

    That it cannot be kept is said there, too: the test's own failure is what counts.
    """
    wants_files = item.config.getoption("--vswitch-pcap") != "off"
    directory = item.config.rootpath / item.config.getoption("--vswitch-output") / directory_name(item.nodeid)
    parts, files, said = [], list[Path](), [f"seed: {seed}"]
    for number, one in enumerate(made):
        into = directory / str(number + 1) if number else directory
        try:
            kept = _call(one.save, into) if wants_files else []
            files += kept
            if report.failed:
                parts += [file.read_text().rstrip() for file in kept if file.name == REPORT] or [_call(one.report)]
        except Exception as error:
            said.append(f"nothing kept in {into}: {error}")
    if not report.failed:
        return
    text = "\n".join(filter(None, [*parts, *said, *(f"kept: {file}" for file in files)]))
    consoles = [file for file in files if file.name.endswith(".console.txt")]
    report.sections.append((TITLE, _for_github(text, consoles) if _is_github() else text))
    for told in [("seed", seed), *(("attachment", str(file)) for file in files)]:
        if told not in item.user_properties:  # of which the last report has all, and JUnit's XML those of that
            item.user_properties.append(told)
    if item.config.pluginmanager.hasplugin("html"):
        _attach(report, text, files)


def _call(function: Any, *words: Any) -> Any:
    """A Lan's, which is async, or a SyncLan's."""
    if not inspect.iscoroutinefunction(function):
        return function(*words)
    import trio

    return trio.run(function, *words)


def _is_github() -> bool:
    return os.environ.get("GITHUB_ACTIONS") == "true"


def _for_github(text: str, consoles: list[Path]) -> str:
    """Folded, with the consoles: on a runner, the files are gone when the job ends.

    What a guest has printed is to give no commands to the runner (GitHub, "Workflow commands").
    """
    parts = [("the LAN", text), *((file.name, file.read_text(errors="replace")) for file in consoles)]
    return "\n".join(map(_group, parts))


def _group(part: tuple[str, str]) -> str:
    title, content = part
    shown = "\n".join(printable(line).replace("##[", "# # [") for line in content.rstrip().expandtabs().split("\n"))
    resume = secrets.token_hex(16)
    return f"::group::{title}\n::stop-commands::{resume}\n{shown}\n::{resume}::\n::endgroup::"


def _attach(report: pytest.TestReport, text: str, files: list[Path]) -> None:
    """For pytest-html."""
    extras = import_module("pytest_html.extras")
    found = [extras.text(text, name="LAN")]
    for file in files:
        if file.suffix == ".png":
            found.append(extras.png(base64.b64encode(file.read_bytes()).decode(), name=file.name))
        else:
            found.append(extras.url(file.as_uri(), name=file.name))
    report.extras = [*getattr(report, "extras", []), *found]  # type: ignore[attr-defined]


def directory_name(node_id: str) -> str:
    """A node id as a name for a directory, which no two tests have in common."""
    name = re.sub(r"[^\w.\[\]=-]+", "-", node_id).strip("-.")
    if len(name) > NAME_MAX:
        digest = hashlib.sha256(node_id.encode()).hexdigest()[:12]
        name = f"{name[:NAME_MAX]}-{digest}"
    return name
