"""vhost-user:// — a guest's card whose rings and memory its QEMU shares (QEMU docs/interop/vhost-user.rst)."""
