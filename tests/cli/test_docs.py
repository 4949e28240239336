"""What README.md and docs/ show is what there is: commands, options, URLs, TOML, Python, names, links, tables.

Code is what is indented by four. A block that is not known for something else has to be Python.
"""

import ast
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args, get_origin

import click
import msgspec
import pytest

import vswitch
import vswitch.testing
from tests.cli.program import COMMAND_TIMEOUT_S, Home
from vswitch.cli import COMMANDS, cli
from vswitch.cli.fabric import description
from vswitch.cli.vde_options import OPTIONS
from vswitch.control import config
from vswitch.control.capture_requests import CaptureRequest
from vswitch.control.operations import CAPTURE, OPERATIONS
from vswitch.dataplane.drops import DROP_REASONS
from vswitch.endpoints import url
from vswitch.endpoints.url import parse
from vswitch.endpoints.user import reasons
from vswitch.ports import policy
from vswitch.ports.event import KINDS
from vswitch.testing import topology

ROOT = Path(__file__).parents[2]
PAGES = {page.name: page.read_text() for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
TEXT = "\n\n".join(PAGES.values())
BLOCK = re.compile(r"(?<=\n\n)(?:    .*\n|\n+(?=    ))+")
SHELL = re.compile(r"(\$ |vswitch |vde_switch |tools/|sudo |pip |curl |tshark |eval |VSWITCH_PURE=)")
OPTION = re.compile(r"(?<![\w-])--?[a-z][a-z-]*")
END_BY_THEMSELVES = {
    "status",
    "ports",
    "macs",
    "vlans",
    "events",
    "failures",
    "dump",
    "qemu-args",
    "libvirt-xml",
    "completion",
}
CONTEXT = click.Context(cli)


def kind(block: str) -> str:
    if SHELL.match(block):
        return "synopsis" if re.match(r"(vswitch|vde_switch) .* \[[-A-Z]", block) else "shell"
    if re.match(r"\[", block):
        return "TOML"
    if re.match(r"\w+://", block):
        return "URL"
    if re.match(r"\w+=\S", block):
        return "another program's settings"
    if re.match(r"[\w-]+=\S", block):
        return "settings of others"
    return "drawing" if "─" in block or re.match(r"\w+  ", block) else "Python"


def blocks(wanted: str) -> list[str]:
    found = [re.sub(r"^    ", "", block, flags=re.M) for block in BLOCK.findall(TEXT)]
    return [block for block in found if kind(block) == wanted]


def commands() -> list[list[str]]:
    """The arguments of each `vswitch …`, without the shell's own."""
    found = []
    for line in "\n".join(blocks("shell")).replace("\\\n", "").splitlines():
        line = re.sub(r'eval "\$\((.*)\)"', r"\1", line)
        if command := re.match(r"(?:\$ |ssh \w+ )?(?:tools/)?vswitch (.*)", line):
            lexer = shlex.shlex(command[1], posix=True, punctuation_chars="|&")
            lexer.whitespace_split = True
            words = list(lexer)
            found.append(words[: min((words.index(end) for end in ("|", "&") if end in words), default=len(words))])
    return found


def find(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that is meant, and its own arguments."""
    command: click.Command = cli
    while isinstance(command, click.Group):
        found = command.get_command(CONTEXT, words[0])
        assert found is not None, f"there is no command {words[0]}"
        command, words = found, words[1:]
    return command, words


def options(command: click.Command) -> set[str]:
    return {name for option in command.params if isinstance(option, click.Option) for name in option.opts}


def leaves(group: click.Group) -> list[click.Command]:
    commands = filter(None, (group.get_command(CONTEXT, name) for name in group.list_commands(CONTEXT)))
    return [leaf for child in commands for leaf in (leaves(child) if isinstance(child, click.Group) else [child])]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_a_command_is_one(words: list[str]) -> None:
    command, arguments = find(words)
    command.make_context(words[0], list(arguments))
    for argument in arguments:
        if "://" in argument and words[0] not in ("join", "exec"):  # whose URLs are no endpoints'
            parse(argument)


@pytest.mark.parametrize("block", blocks("synopsis"))
def test_a_synopsis_has_the_options_that_there_are(block: str) -> None:
    for synopsis in re.split(r"\n(?=\w)", block):
        program, *words = re.split(r"\s+", synopsis.strip())
        if program == "vde_switch":
            known = {f"-{option.letter}" for option in OPTIONS} | {f"--{name}" for o in OPTIONS for name in o.names}
        else:
            meant = [options(find([name, *words[1:]])[0]) for name in words[0].split("|")]
            known = set.intersection(*meant)
        assert set(OPTION.findall(synopsis)) <= known


def test_an_option_in_the_text_is_one() -> None:
    spans = re.findall(r"`([^`]+)`", BLOCK.sub("", TEXT))
    named = [span.removeprefix("vswitch ").split() for span in spans]
    named = [words for words in named if words and words[0] in COMMANDS and len(words) > 1]
    assert named
    for words in named:
        assert set(OPTION.findall(" ".join(words))) <= options(find(words)[0]), words


@pytest.mark.parametrize("command", leaves(cli), ids=lambda command: str(command.name))
def test_every_option_is_on_a_page(command: click.Command) -> None:
    for option in command.params:
        if isinstance(option, click.Option) and not option.hidden:
            assert any(re.search(rf"{name}\b", TEXT) for name in option.opts), option.opts


def test_commands_do_what_they_are_shown_to_do(home: Home) -> None:
    with home.serve("unix://lan.sock?name=lab", "--record", "1MiB"):
        for words in commands():
            if words[0] in END_BY_THEMSELVES:
                done = home.run(*words, env={"PATH": os.environ["PATH"]})
                assert (done.returncode, done.stderr) == (0, ""), words
                assert done.stdout or words[0] in ("dump", "events"), words


def test_switches_are_served_as_they_are_shown(home: Home) -> None:
    (home.root / "srv/tftp").mkdir(parents=True)
    for number, (command, *words) in enumerate(commands()):
        # A device takes root; nobody has an address of RFC 5737.
        if command == "serve" and not any("tap://" in word or "://192.0.2." in word for word in words):
            words = [re.sub(r"/tmp/|/(?=srv/)", f"{home.root}/", word) for word in words]
            words += [] if any("://" in word for word in words) else [f"unix://{number}.sock"]
            with home.serve(*words) as serving:
                assert len(serving.urls) == len([word for word in words if "://" in word])


@pytest.mark.parametrize("block", blocks("TOML"))
def test_a_configuration_is_one(tmp_path: Path, block: str) -> None:
    path = tmp_path / "lab.toml"
    path.write_text(block)
    if "[[host]]" in block:
        assert description.read(str(path), "one").neighbors
        return
    assert topology.read(str(path)).guests if "[[guest]]" in block else config.read(str(path)).endpoints


@pytest.mark.parametrize("block", blocks("URL"))
def test_a_url_is_one(block: str) -> None:
    for word in block.split():
        parse(word)


@pytest.mark.parametrize("block", blocks("Python"))
def test_python_is_python(home: Home, block: str) -> None:
    compile(block.replace("…", "..."), "docs", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    if "trio.run(" in block:
        command = [sys.executable, "-c", block]
        done = subprocess.run(command, env=home.env, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S)
        assert done.returncode == 0, done.stderr
        assert re.fullmatch(r"guests connect to tcp://127\.0\.0\.1:\d+\n0 frames came in\n", done.stdout)


def test_every_kind_of_block_is_found() -> None:
    assert all(blocks(wanted) for wanted in ("shell", "synopsis", "TOML", "URL", "drawing", "Python"))
    assert {words[0] for words in commands()} >= {"serve", "ports", "capture", "dump", "qemu-args", "image"}


@pytest.mark.parametrize("module", [vswitch, vswitch.testing], ids=["vswitch", "vswitch.testing"])
def test_every_public_name_is_on_the_page_of_the_python_api(module: object) -> None:
    names = set(re.findall(r"`(\w+)[`(]", PAGES["python.md"]))
    assert set(module.__all__) <= names  # type: ignore[attr-defined]


def codes(page: str, column: int) -> set[str]:
    """What a column of a page's tables has as code."""
    rows = (line.split("|") for line in PAGES[page].splitlines() if line.startswith("|"))
    return {word for row in rows for word in re.findall(r"`([a-z_]+)(?:=`)?", row[column])}


def test_every_event_is_on_its_page() -> None:
    assert codes("events.md", 1) == set(KINDS)


def test_every_reason_is_on_the_page_of_forwarding() -> None:
    assert codes("forwarding.md", 2) | {"stranger"} == set(DROP_REASONS)
    assert "`stranger`" in PAGES["forwarding.md"]


def test_every_reason_of_a_user_network_is_on_its_page() -> None:
    rows = re.findall(r"^\| `([a-z_]+)` \|", PAGES["user-network.md"], re.M)
    assert set(rows) >= set(reasons.REASONS)


def test_every_parameter_is_on_a_page() -> None:
    for name in (*url.ALL_PARAMETERS, *policy.PARAMETERS):
        assert re.search(
            rf"`{name}(=[^`]*)?`", PAGES["endpoints.md"] + PAGES["user-network.md"] + PAGES["policy.md"]
        ), name


def test_every_operation_is_on_the_page_of_the_api_with_its_fields() -> None:
    rows = dict(re.findall(r"^\| `(?:GET )?([A-Z]* ?/[\w/.]+)(?:\?…)?` \| (.*) \|$", PAGES["api.md"], re.M))
    for operation in OPERATIONS[1:]:
        method = "" if operation.method == "GET" else f"{operation.method} "
        row = rows[re.sub(r"{(\w+)}", lambda named: PLACES[named[1]], f"{method}{operation.full_path}")]
        for kind in (operation.query, operation.body, operation.answer):
            if kind is not CaptureRequest or operation is CAPTURE:
                assert fields(kind) <= set(re.findall(r"\w+", row)), (operation.full_path, row)


PLACES = {"name": "NAME", "mac": "MAC", "number": "ID", "forward": "FORWARD"}


def fields(kind: Any) -> set[str]:
    """The fields of a JSON type, or of its items, and of theirs."""
    if get_origin(kind) is not None:
        return {name for item in get_args(kind) for name in fields(item)}
    if not (isinstance(kind, type) and issubclass(kind, msgspec.Struct)):
        return set()
    found = msgspec.structs.fields(kind)
    return {field.encode_name for field in found} | {name for field in found for name in fields(field.type)}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    here = ROOT / page if page == "README.md" else ROOT / "docs" / page
    for target in re.findall(r"\]\(([^)]+)\)", PAGES[page]):
        path, _, anchor = target.partition("#")
        if "://" in path:
            continue
        assert (here.parent / path).exists(), target
        if anchor:
            heads = re.findall(r"^#+ (.*)", PAGES[Path(path).name if path else page], re.M)
            assert anchor in [re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads], target


@pytest.mark.parametrize("page", PAGES)
def test_a_table_is_whole(page: str) -> None:
    for table in re.findall(r"(?:^\|.*\n)+", PAGES[page], re.M):
        head, line, *rows = table.replace("\\|", "").splitlines()
        assert re.fullmatch(r"\|(?:---\|)+", line), f"no line under {head}"
        assert {row.count("|") for row in (head, *rows)} == {line.count("|")}, head
