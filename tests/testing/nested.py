"""pytest as tests start it: without plugins that take long to load and have no say in it."""

import sys

WITHOUT = ("-p", "no:cacheprovider", "-p", "no:asyncio", "-p", "no:schemathesis")
PYTEST = (sys.executable, "-m", "pytest", *WITHOUT)
