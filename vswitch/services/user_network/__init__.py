"""The program behind a user:// endpoint: an Ethernet network with NAT, DHCP and DNS, behind one stream of frames."""
