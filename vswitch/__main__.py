"""`python -m vswitch`."""

from vswitch.cli import main

main()
