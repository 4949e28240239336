"""Ways in: each accepts or connects, shakes hands, reconnects, and hands a ready descriptor to a port.

url.py         the grammar: text → EndpointConfig
kinds.py       which of the ways in a URL means
endpoint.py    what all endpoints have in common
accepting.py   the next connection of a listener
comeback.py    an endpoint is served again when what it stands on is back
stream/        tcp://, unix:// — listening and connecting
datagram/      udp://, unixgram://, mcast://
vde/           vde:// — being a VDE switch, and plugging into one
tap.py         tap://
descriptor.py  fd:// — any of these on a socket that is open already
guests/        what to write on a guest's side
"""
