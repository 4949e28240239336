"""`python -m vswitch.testing [FILE]` is `vswitch lab up [FILE]`."""

import os
import sys

if __name__ == "__main__":
    os.execv(sys.executable, [sys.executable, "-m", "vswitch", "lab", "up", *sys.argv[1:]])
