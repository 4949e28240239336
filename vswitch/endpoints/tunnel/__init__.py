"""Tunnels, to other hosts and to QEMU: VXLAN (RFC 7348) and L2TPv3 (RFC 3931)."""
