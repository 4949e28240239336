"""Ways in: each accepts or connects, shakes hands, reconnects, and hands a ready descriptor to the data plane.

url.py        the grammar: text → EndpointConfig
kinds.py      which of the ways in a URL means
ports.py      the ports of a switch: names, links coming and going
forwarding.py the tasks that run the data plane; wrongs.py: what is plainly wrong in the LAN, for the log
endpoint.py   what all endpoints have in common
accepting.py  the next connection of a listener; connector.py: one that is kept connected
comeback.py   an endpoint is served again when what it stands on is back
stream.py     tcp://, unix:// — listening and connecting
datagram.py   udp://, unixgram://
multicast.py  mcast://
vde.py        vde:// — being a VDE switch; vde_client.py: plugging into one
tap.py        tap://
descriptor.py fd:// — any of these on a socket that is open already
"""
