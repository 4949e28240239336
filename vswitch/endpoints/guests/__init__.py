"""The guest's side of an endpoint: what to write for QEMU and libvirt."""
