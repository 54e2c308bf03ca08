"""``python -m rayward``."""

from rayward.cli.root import main

main()
