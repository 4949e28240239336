"""The control side: what a switch is told, and what it tells.

config.py  TOML → SwitchConfig
model.py   the JSON types of the API, and how they are filled
operations.py  what may be asked: one table, for both ends
api.py     who answers it, by HTTP on the control socket
client.py  the other end of that
runtime.py where a switch's sockets are
"""
