"""The grammar of endpoint URLs, rule by rule."""

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vswitch.endpoints.url import SCHEMES, EndpointConfig, parse
from vswitch.errors import InputError, printable
from vswitch.values import check_name

TCP = "tcp://127.0.0.1:1234"
UNIX = "unix:///run/lan.sock"
FLAGS = ("connect", "single", "any_user", "insecure")
TRUE, FALSE = ("yes", "on", "true"), ("no", "off", "false")


def read(text: str, parameters: dict[str, Any] | None = None) -> EndpointConfig | InputError:
    """The endpoint that a text describes, or what is wrong with it."""
    try:
        return parse(text, parameters)
    except InputError as error:
        return error


def refused(text: str, parameters: dict[str, Any] | None = None) -> str:
    """The message for an endpoint that is written wrongly."""
    with pytest.raises(InputError) as caught:
        parse(text, parameters)
    message = str(caught.value)
    assert message.isprintable()
    return message


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        (TCP, "127.0.0.1", 1234),
        ("tcp://127.0.0.1:0", "127.0.0.1", 0),
        ("tcp://127.0.0.1:65535", "127.0.0.1", 65535),
        ("tcp://[::1]:1234", "::1", 1234),
        ("tcp://[fe80::1%25eth0]:1", "fe80::1%eth0", 1),
        ("tcp://[fe80::1%eth0]:1", "fe80::1%eth0", 1),
        ("tcp://build.example.org:7", "build.example.org", 7),
        ("tcp://127.0.0.%31:1%32", "127.0.0.1", 12),
        ("tcp://127.0.0.1:1234?", "127.0.0.1", 1234),
    ],
)
def test_a_tcp_endpoint_is_a_host_and_a_port(url: str, host: str, port: int) -> None:
    assert parse(url) == EndpointConfig(scheme="tcp", host=host, port=port)


@pytest.mark.parametrize(
    ("url", "path"),
    [
        (UNIX, "/run/lan.sock"),
        ("unix://rel.sock", "rel.sock"),
        ("unix://dir/rel.sock", "dir/rel.sock"),
        ("unix:///Run/LAN.Sock", "/Run/LAN.Sock"),
        ("unix:///run/a:b@c#d,e=f&g", "/run/a:b@c#d,e=f&g"),
    ],
)
def test_a_unix_endpoint_is_a_path_as_it_stands(url: str, path: str) -> None:
    assert parse(url) == EndpointConfig(scheme="unix", path=path)


@pytest.mark.parametrize(("url", "fd"), [("fd://0", 0), ("fd://3", 3), ("fd://1023", 1023)])
def test_an_fd_endpoint_is_a_number(url: str, fd: int) -> None:
    assert parse(url) == EndpointConfig(scheme="fd", fd=fd)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("a%20b", "a b"),
        ("%41%6a%4A", "AjJ"),
        ("%c3%a9", "é"),
        ("é", "é"),
        ("%ff", "\udcff"),
        ("%3Fname=x", "?name=x"),
        ("%2541", "%41"),
        ("100%", "100%"),
        ("%4", "%4"),
        ("%zz", "%zz"),
        ("%%41", "%A"),
        ("a+b", "a+b"),
        ("a%2Bb", "a+b"),
    ],
)
def test_percent_is_decoded_where_two_hex_digits_follow_and_plus_is_itself(written: str, meant: str) -> None:
    assert parse(f"unix:///{written}").path == f"/{meant}"


def test_names_and_values_of_parameters_are_decoded_as_well() -> None:
    assert parse(f"{UNIX}?%6eame=%61%2d1").name == "a-1"


@pytest.mark.parametrize("flag", FLAGS)
def test_a_flag_is_off_unless_given_and_may_stand_bare(flag: str) -> None:
    assert getattr(parse(TCP), flag) is False
    assert getattr(parse(f"{TCP}?{flag}"), flag) is True


@pytest.mark.parametrize("flag", FLAGS)
@pytest.mark.parametrize("word", TRUE + FALSE)
def test_a_flag_takes_every_boolean_word_and_tomls_own(flag: str, word: str) -> None:
    meant = word in TRUE
    assert getattr(parse(f"{TCP}?{flag}={word}"), flag) is meant
    assert getattr(parse(TCP, {flag: word}), flag) is meant
    assert getattr(parse(TCP, {flag: meant}), flag) is meant


@pytest.mark.parametrize("value", ["maybe", "1", "0", "", "y"])
def test_a_flag_takes_no_other_word(value: str) -> None:
    message = refused(f"{TCP}?connect={value}")
    assert "connect" in message
    assert "yes" in message
    assert "no" in message


@pytest.mark.parametrize("value", [1, 0, 1.0, [], ["yes"], {}, None])
def test_a_flag_takes_no_other_type(value: object) -> None:
    assert "connect" in refused(TCP, {"connect": value})


@pytest.mark.parametrize(
    ("text", "size"),
    [("1MiB", 2**20), ("1MB", 10**6), ("256KiB", 2**18), ("200KB", 200_000), ("0.5MiB", 2**19), ("131072B", 2**17)],
)
def test_a_size_carries_its_unit(text: str, size: int) -> None:
    assert parse(f"{TCP}?queue={text}").queue == size
    assert parse(TCP, {"queue": text}).queue == size


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("4", "write 4MiB"),
        ("1mib", "MiB"),
        ("10Mbit/s", "MiB"),
        ("big", "10MiB"),
        ("", "10MiB"),
        ("-1MiB", "10MiB"),
        ("1B", "128KiB"),
        ("2GiB", "1GiB"),
    ],
)
def test_a_wrong_size_is_answered_with_the_likely_form(text: str, said: str) -> None:
    message = refused(f"{TCP}?queue={text}")
    assert "queue" in message
    assert said in message


@pytest.mark.parametrize("value", [1048576, 1.5, True, ["1MiB"], {}])
def test_a_size_of_another_type_is_answered_with_the_likely_form(value: object) -> None:
    message = refused(TCP, {"queue": value})
    assert "queue" in message
    assert "MiB" in message


@pytest.mark.parametrize("name", ["a", "lab", "Lab-1", "0", "lan.2", "a_b:c", "x" * 63])
def test_a_name_is_taken_as_it_stands(name: str) -> None:
    assert parse(f"{TCP}?name={name}").name == name


@pytest.mark.parametrize("name", ["", ".", "..", "-x", "_x", "a/b", "a b", "é", "a%00", "a%0A", "a\n", "x" * 64])
def test_a_name_that_could_be_mistaken_for_something_else_is_refused(name: str) -> None:
    message = refused(f"{TCP}?name={name}")
    assert "name" in message
    assert "letters" in message


@pytest.mark.parametrize("value", [5, 1.5, True, ["lab"], {}])
def test_a_name_of_another_type_is_answered_with_what_it_should_be(value: object) -> None:
    message = refused(TCP, {"name": value})
    assert "name" in message
    assert re.search(r"lab|text|string|letters|quotes", message), message


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "tcp://127.0.0.1:1234"),
        ("lan", "tcp://127.0.0.1:1234"),
        ("127.0.0.1:1234", "tcp://127.0.0.1:1234"),
        ("/run/lan.sock", "unix:///"),
        ("tcp:127.0.0.1:1234", "tcp://127.0.0.1:1234"),
        ("foo://x", "tcp, unix, vhost-user, mcast, udp, unixgram, vde, tap, vxlan, l2tpv3, user, fd"),
        ("://x", "tcp, unix, vhost-user, mcast, udp, unixgram, vde, tap, vxlan, l2tpv3, user, fd"),
        ("tcp://", "tcp://127.0.0.1:1234"),
        ("tcp://127.0.0.1", "tcp://127.0.0.1:1234"),
        ("tcp://127.0.0.1:", "tcp://127.0.0.1:1234"),
        ("tcp://lan.example", "tcp://lan.example:1234"),
        ("tcp://:1234", "host is missing"),
        ("tcp://[]:1234", "host is missing"),
        ("tcp://127.0.0.1:65536", "65535"),
        ("tcp://127.0.0.1:http", "port"),
        ("tcp://127.0.0.1:-1", "port"),
        ("tcp://127.0.0.1:12x", "port"),
        ("tcp://127.0.0.1:1234/", "port"),
        ("tcp://256.0.0.1:1", "not an IP address"),
        ("tcp://1.2.3:1", "not an IP address"),
        ("tcp://[127.0.0.1]:1", "not an IP address"),
        ("tcp://[::g]:1", "not an IP address"),
        ("tcp://::1:1234", "brackets"),
        ("tcp://[::1]", "port is missing"),
        ("unix://", "path is missing"),
        ("unix://?connect", "path is missing"),
        ("unix:///a%00b", "NUL"),
        ("fd://", "number"),
        ("fd://3x", "number"),
        ("fd://-1", "number"),
        (f"{TCP}?nmae=lab", "name"),
        (f"{TCP}?=lab", "name"),
        (f"{UNIX}?insecure=yes", "connect"),
        ("fd://3?connect", "single"),
        (f"{TCP}?name=a&name=b", "twice"),
        (f"{TCP}?name=a&name=a", "twice"),
        (f"{TCP}?connect&connect=no", "twice"),
        (f"{TCP}?name", "name"),
        (f"{TCP}?queue", "queue"),
    ],
)
def test_what_is_written_wrongly_is_answered_with_what_would_be_right(url: str, said: str) -> None:
    message = refused(url)
    assert message.startswith(url)
    assert said in message.removeprefix(url)


@pytest.mark.parametrize(
    "url",
    [
        "tcp://",
        "tcp://127.0.0.1",
        "tcp://:7",
        "tcp://127.0.0.1:http",
        "tcp://127.0.0.1:-1",
        "tcp://127.0.0.1:1234/",
        "tcp://[::1]",
        "tcp://::1:7",
        "unix://",
    ],
)
def test_the_url_that_an_error_suggests_is_one(url: str) -> None:
    suggested = re.findall(r"(?:tcp|unix)://\S+", refused(url).removeprefix(url))
    assert suggested
    for suggestion in suggested:
        parse(suggestion.rstrip(";,"))


def test_a_parameter_is_given_twice_when_url_and_table_both_say_it() -> None:
    assert "twice" in refused(f"{TCP}?name=a", {"name": "a"})


def test_a_unix_path_may_have_107_bytes_and_no_more() -> None:
    longest = "/" + 106 * "x"
    assert parse(f"unix://{longest}").path == longest
    assert "108" in refused(f"unix://{longest}x")
    assert "107" in refused(f"unix://{longest}x")


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("unix://{}.sock", "{}.sock"),
        ("unix://{}.sock?connect", "{}.sock"),
        ("vhost-user://{}.vhost", "{}.vhost"),
        ("unixgram://{}.sock", "{}.sock"),
        ("unixgram:///tmp/a?remote={}.sock", "{}.sock"),
        ("vde://{}.vde", "{}.vde"),
        ("vde://{}.vde?connect", "{}.vde"),
        ("vde:///tmp/a?mgmt={}.mgmt", "{}.mgmt"),
    ],
)
def test_a_relative_path_has_to_fit_when_it_is_written_in_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, named: str
) -> None:
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    monkeypatch.chdir("/")
    parse(url.format("a")).check_paths()
    monkeypatch.chdir(deep)
    with pytest.raises(InputError, match=f"{deep}/{named.format('a')}: the path ") as caught:
        parse(url.format("a")).check_paths()
    assert str(caught.value).startswith(f"{parse(url.format('a')).url}: ")
    parse("tap://tap0").check_paths()


def test_it_is_bytes_that_count_not_characters() -> None:
    assert parse("unix://" + 53 * "é").path == 53 * "é"
    assert "108" in refused("unix://" + 54 * "é")
    assert parse("unix://" + 107 * "%ff").path == 107 * "\udcff"


@pytest.mark.parametrize("url", ["tcp://127.0.0.1:{}", "fd://{}", "tcp://127.0.0.1:1?queue={}MiB"])
def test_a_number_of_any_length_is_just_wrong(url: str) -> None:
    refused(url.format("9" * 400))
    refused(url.format("9" * 5000))


@pytest.mark.parametrize(
    "url",
    [
        TCP,
        "tcp://[::1]:0",
        "tcp://lan:1?connect",
        UNIX,
        "unix://rel.sock?connect",
        "unix:///a%3Fb",
        "unix:///a%2541",
        "unix:///a%26b",
        "unix:///a%ffb",
        "fd://3",
        "mcast://230.0.0.1:5?iface=a%26b",
        "udp://lan:1?remote=[::1]:5",
        "unixgram:///a?remote=/b%26c=%3Fd%2541",
        "vde:///a?connect",
    ],
)
def test_the_url_an_endpoint_shows_is_printable_and_means_the_same(url: str) -> None:
    config = parse(url)
    assert config.url.isprintable()
    assert parse(config.url) == config


def test_an_absolute_endpoint_means_the_same_in_any_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/tmp")
    assert parse("unixgram://a?remote=b").absolute() == parse("unixgram:///tmp/a?remote=/tmp/b")
    for url in ("tcp://lan:1?connect", "udp://lan:1?remote=h:5", "fd://3"):
        assert parse(url).absolute() == parse(url)


@pytest.mark.parametrize("path", ["a%0Ab", "%1b[31m", "%7f", "%c2%9b", "%e2%80%ae"])
def test_a_path_that_would_upset_a_terminal_is_refused_or_shown_safely(path: str) -> None:
    found = read(f"unix:///{path}")
    shown = found.url if isinstance(found, EndpointConfig) else str(found)
    assert shown.isprintable()
    if isinstance(found, EndpointConfig):
        assert parse(found.url) == found


SENSIBLE = st.sampled_from([*":[]/a.é%=", "127.0.0.1", "1234", "::1", "%41", "%00", "%ff", "\n", "\x1b", "\udcff"])
PARAMETER_NAMES = st.sampled_from([*FLAGS, "name", "queue", "nonsense", ""])
PARAMETER_TEXTS = st.sampled_from(["yes", "no", "lab", "1MiB", "1\nB", "\x1b[31m", "1", ""]) | st.text(max_size=4)
QUERIES = st.lists(st.builds("{}={}".format, PARAMETER_NAMES, PARAMETER_TEXTS) | PARAMETER_NAMES, max_size=3)
PIECES = st.builds(
    "{}://{}?{}".format,
    st.sampled_from([*SCHEMES, "foo"]),
    st.lists(SENSIBLE, max_size=6).map("".join),
    QUERIES.map("&".join),
)
TOML_VALUES = st.recursive(
    st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | PARAMETER_TEXTS | st.dates() | st.times(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=3,
)


@given(st.text(alphabet=st.characters()) | PIECES)
@example("tcp://\x1b[31m")
@example("tcp://[\x1b]:1")
@example("tcp://127.0.0.1:1?queue=1\nB")
@example("tcp://127.0.0.1:" + "9" * 5000)
@example("tcp://127.0.0.1:1?queue=" + "9" * 400 + "MiB")
@example("fd://" + "9" * 5000)
def test_any_text_is_an_endpoint_or_an_error_of_one_printable_line(text: str) -> None:
    found = read(text)
    assert isinstance(found, EndpointConfig) or str(found).isprintable()


@given(st.sampled_from([TCP, UNIX, "fd://3"]), st.dictionaries(PARAMETER_NAMES, TOML_VALUES, max_size=3))
def test_any_table_is_an_endpoint_or_an_error_of_one_printable_line(url: str, table: dict[str, Any]) -> None:
    found = read(url, table)
    assert isinstance(found, EndpointConfig) or str(found).isprintable()


@given(st.sampled_from([TCP, UNIX, "fd://3"]), PARAMETER_NAMES, PARAMETER_TEXTS)
def test_a_table_entry_means_what_the_same_text_means_in_a_url(url: str, name: str, text: str) -> None:
    escaped = "".join(f"%{byte:02x}" for byte in text.encode())
    in_table, in_url = read(url, {name: text}), read(f"{url}?{name}={escaped}")
    if isinstance(in_table, EndpointConfig):
        assert in_url == in_table
    else:
        assert isinstance(in_url, InputError)


@given(st.text(alphabet=st.characters()))
def test_any_text_is_a_name_or_an_error(text: str) -> None:
    found: str | InputError
    try:
        found = check_name(text)
    except InputError as error:
        found = error
    if isinstance(found, str):
        assert found == text
        assert re.fullmatch(r"[A-Za-z0-9][\w.:-]{,62}", found, re.ASCII)
    else:
        assert str(found).isprintable()


@given(st.text(alphabet=st.characters()))
@example("\udcff")
def test_any_text_can_be_made_printable_and_printable_text_stays(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert printable(shown) == shown
    if text.isprintable():
        assert shown == text
