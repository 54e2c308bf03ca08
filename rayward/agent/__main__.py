"""``python -m rayward.agent`` and the zip's entry point."""

import sys

from rayward.agent.main import main

sys.exit(main())
