"""Ways in: each accepts or connects, shakes hands, reconnects, and hands a ready descriptor to the data plane.

url.py      the grammar: text → EndpointConfig
ports.py    the ports of a switch: names, links coming and going, the task that drives the loop
endpoint.py what all endpoints have in common
stream.py   tcp://, unix://, fd:// — listening and connecting
"""

from vswitch.endpoints.stream import create as create
