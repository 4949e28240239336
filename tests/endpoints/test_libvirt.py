"""Elements for libvirt: its own where it has one that meets the switch, else QEMU's arguments."""

from xml.etree import ElementTree

import msgspec
import pytest

from vswitch.endpoints.guests import libvirt, qemu
from vswitch.endpoints.url import EndpointConfig, parse
from vswitch.errors import InputError

WEB = qemu.named_guest("web")
ARG = f"{{{libvirt.QEMU_NAMESPACE}}}arg"


def element(config: EndpointConfig | str, version: qemu.Version = (7, 2)) -> ElementTree.Element:
    config = parse(config) if isinstance(config, str) else config
    return ElementTree.fromstring(f"<x>{libvirt.xml(config, version, WEB, qemu.host_mtu(config.policy))}</x>")[0]


def arguments(found: ElementTree.Element) -> list[str]:
    """The values of a qemu:commandline."""
    assert found.tag == f"{{{libvirt.QEMU_NAMESPACE}}}commandline"
    assert {child.tag for child in found} == {ARG}
    return [child.attrib["value"] for child in found]


def check_interface(found: ElementTree.Element, kind: str, source: tuple[str, str]) -> None:
    assert (found.tag, found.attrib) == ("interface", {"type": kind})
    assert [child.tag for child in found] == ["mac", "source", "model"]
    mac, where, model = found
    assert mac.attrib == {"address": WEB.mac}
    assert (where.attrib["address"], where.attrib["port"]) == source
    assert model.attrib == {"type": "virtio"}


@pytest.mark.parametrize(("url", "kind"), [("tcp://127.0.0.1:5", "client"), ("tcp://127.0.0.1:5?connect", "server")])
def test_tcp_is_a_client_of_what_listens_and_a_server_for_what_connects(url: str, kind: str) -> None:
    check_interface(element(url), kind, ("127.0.0.1", "5"))


@pytest.mark.parametrize(
    ("url", "local"),
    [("udp://127.0.0.1:5?remote=10.0.0.1:7", ("10.0.0.1", "7")), ("udp://127.0.0.1:5", ("127.0.0.1", "0"))],
)
def test_udp_has_our_end_as_source_and_its_own_as_local(url: str, local: tuple[str, str]) -> None:
    found = element(url)
    check_interface(found, "udp", ("127.0.0.1", "5"))
    (end,) = found[1]
    assert (end.tag, end.attrib["address"], end.attrib["port"]) == ("local", *local)


@pytest.mark.parametrize("joined_elsewhere", [False, True])
def test_a_group_is_an_interface_with_a_comment_if_libvirt_joins_it_elsewhere(
    monkeypatch: pytest.MonkeyPatch, joined_elsewhere: bool
) -> None:
    monkeypatch.setattr(libvirt, "_joined_elsewhere", lambda config: joined_elsewhere)
    for iface, device in (("", "lo"), ("?iface=10.0.0.9", "<the interface with 10.0.0.9>"), ("?iface=br0", "br0")):
        config = parse(f"mcast://230.0.0.1:5{iface}")
        check_interface(element(config), "mcast", ("230.0.0.1", "5"))
        assert (f"ip route add 230.0.0.1 dev {device}" in libvirt.xml(config, (7, 2), WEB, None)) == joined_elsewhere


def test_where_libvirt_joins_a_group_is_where_its_route_goes() -> None:
    loopback = msgspec.structs.replace(
        parse("mcast://230.0.0.1:5"), host="127.0.0.1"
    )  # whose route goes through lo on any machine
    assert not libvirt._joined_elsewhere(loopback)
    assert libvirt._joined_elsewhere(msgspec.structs.replace(loopback, iface="10.0.0.9"))


@pytest.mark.parametrize(
    "url",
    [
        "tcp://[::1]:5",
        "tcp://localhost:5",
        "tcp://[::1]:5?connect",
        "unix:///run/a,b",
        "unix:///run/<a&'\"b>",
        "unix:///run/g?connect",
        "udp://localhost:5",
        "unixgram:///run/a",
        "unixgram:///run/a?remote=/run/b",
        "vde:///run/v",
    ],
)
@pytest.mark.parametrize("version", [(7, 2), (9, 2)])
def test_what_libvirt_has_no_element_for_is_qemus_arguments(url: str, version: qemu.Version) -> None:
    netdev = qemu.best_netdev(parse(url), version, WEB, "vswitch0").text
    device = f"virtio-net-pci,netdev=vswitch0,mac={WEB.mac},addr=0x10"
    assert arguments(element(url, version)) == ["-netdev", netdev, "-device", device]


@pytest.mark.parametrize(("query", "mode"), [("", "client"), ("?connect", "server"), ("?max_frame=1414", "client")])
def test_vhost_user_is_an_interface_with_a_comment_on_the_domains_memory(query: str, mode: str) -> None:
    config = parse(f"vhost-user:///run/a,b{query}")
    found = element(config)
    assert (found.tag, found.attrib) == ("interface", {"type": "vhostuser"})
    mac, source, model, *more = found
    assert (mac.attrib, model.attrib) == ({"address": WEB.mac}, {"type": "virtio"})
    assert (source.tag, source.attrib) == ("source", {"type": "unix", "path": "/run/a,b", "mode": mode})
    again = [("reconnect", {"enabled": "yes", "timeout": "1"})] if mode == "client" else []
    assert [(child.tag, child.attrib) for child in source] == again
    assert [(child.tag, child.attrib) for child in more] == (
        [("mtu", {"size": "1400"})] if "max_frame" in query else []
    )
    text = libvirt.xml(config, (7, 2), WEB, None)
    assert "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>" in text


def test_a_qemu_without_the_netdev_is_an_error() -> None:
    with pytest.raises(InputError, match=r"7\.2 or newer"):
        element("unix:///run/a", (6, 2))


@pytest.mark.parametrize("url", ["fd://3", "vde:///run/v?connect", "udp://[::1]:5"])
def test_where_no_line_of_qemus_plugs_in_there_is_no_element_either(url: str) -> None:
    with pytest.raises(InputError):
        element(url)


def test_bytes_that_xml_cannot_have_are_an_error() -> None:
    with pytest.raises(InputError, match="UTF-8"):
        element(parse("unix:///run/%ff"))
    assert element("unix:///run/é")


@pytest.mark.parametrize(("url", "where"), [("tcp://127.0.0.1:5", "<devices>"), ("unix:///a", "<domain>")])
def test_a_comment_says_where_it_goes(url: str, where: str) -> None:
    first, *_ = libvirt.xml(parse(url), (7, 2), WEB, None).splitlines()
    assert first.startswith("<!-- ")
    assert first.endswith(" -->")
    assert where in first


@pytest.mark.parametrize("url", ["tcp://127.0.0.1:5", "mcast://230.0.0.1:5", "udp://127.0.0.1:5", "unix:///run/a"])
def test_a_card_is_told_its_mtu_by_arguments_as_libvirt_refuses_to_in_these_elements(url: str) -> None:
    netdev = qemu.best_netdev(parse(url), (7, 2), WEB, "vswitch0").text
    device = f"virtio-net-pci,netdev=vswitch0,mac={WEB.mac},host_mtu=1400,addr=0x10"
    assert arguments(element(f"{url}?max_frame=1414")) == ["-netdev", netdev, "-device", device]


@pytest.mark.parametrize("url", ["tcp://127.0.0.1:5", "unix:///run/a"])
def test_a_comment_says_which_vlan_a_guest_is_in(url: str) -> None:
    _, second, third, *_ = libvirt.xml(parse(f"{url}?vlan=10&up=no"), (7, 2), WEB, None).splitlines()
    assert second.startswith("<!-- up=no: ")
    assert third.startswith("<!-- in VLAN 10: ")
    assert element(f"{url}?vlan=10&up=no").tag == element(url).tag
