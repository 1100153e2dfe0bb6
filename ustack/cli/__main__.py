"""`python -m ustack.cli`."""

from __future__ import annotations

import sys

from ustack.cli import main

if __name__ == "__main__":
    sys.exit(main())
