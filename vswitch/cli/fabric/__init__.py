"""Hosts whose LANs are one: VXLAN between their kernels, whose stations FRRouting spreads by BGP EVPN (RFC 8365)."""
