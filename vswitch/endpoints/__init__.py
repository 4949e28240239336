"""Ways in: each accepts or connects, shakes hands, reconnects, and hands a ready descriptor to the data plane.

url.py        the grammar: text → EndpointConfig
ports.py      the ports of a switch: names, links coming and going, the task that drives the loop
endpoint.py   what all endpoints have in common
accepting.py  the next connection of a listener; connector.py: one that is kept connected
stream.py     tcp://, unix:// — listening and connecting
datagram.py   udp://, unixgram://
multicast.py  mcast://
vde.py        vde:// — being a VDE switch; vde_client.py: plugging into one
tap.py        tap://
descriptor.py fd:// — any of these on a socket that is open already
kinds.py      which of them a URL means
"""
