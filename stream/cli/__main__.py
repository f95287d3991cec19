"""``python -m stream.cli`` is ``millrace``."""

from stream.cli.main import main

main()
