"""Which kind of endpoint a URL means."""

from vswitch.endpoints import descriptor
from vswitch.endpoints.datagram.endpoint import UdpPeers, UnixPeers
from vswitch.endpoints.datagram.multicast import Multicast
from vswitch.endpoints.endpoint import Endpoint
from vswitch.endpoints.stream.endpoint import Listener, StreamConnector
from vswitch.endpoints.tap import Tap
from vswitch.endpoints.tls.endpoint import SecureConnector, SecureListener
from vswitch.endpoints.tunnel.l2tpv3 import L2tpv3
from vswitch.endpoints.tunnel.vxlan import Vxlan
from vswitch.endpoints.url import EndpointConfig
from vswitch.endpoints.user.endpoint import UserNetwork
from vswitch.endpoints.vde.client import VdeClient
from vswitch.endpoints.vde.endpoint import VdeSwitch
from vswitch.endpoints.vhost_user.endpoint import VhostConnector, VhostListener
from vswitch.ports.ports import Ports

_KINDS: dict[tuple[str, bool], type[Endpoint]] = {  # by scheme and whether it connects
    ("tcp", False): Listener,
    ("tcp", True): StreamConnector,
    ("unix", False): Listener,
    ("unix", True): StreamConnector,
    ("mcast", False): Multicast,
    ("udp", False): UdpPeers,
    ("unixgram", False): UnixPeers,
    ("tap", False): Tap,
    ("vxlan", False): Vxlan,
    ("l2tpv3", False): L2tpv3,
    ("user", False): UserNetwork,
    ("vde", False): VdeSwitch,
    ("vde", True): VdeClient,
    ("vhost-user", False): VhostListener,
    ("vhost-user", True): VhostConnector,
}


def create(config: EndpointConfig, name: str, ports: Ports, sock: descriptor.Usable | None = None) -> Endpoint:
    """The endpoint for a URL, or for a socket that is open already. Raises InputError if that cannot be used."""
    if config.scheme == "fd":
        return descriptor.create(config, name, ports, sock)
    if config.tls is not None:
        return (SecureConnector if config.connect else SecureListener)(config, name, ports)
    return _KINDS[config.scheme, config.connect](config, name, ports)
