"""user://: a network with NAT, DHCP and DNS."""
