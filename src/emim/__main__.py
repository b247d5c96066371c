"""`python -m emim`, for launchers that start a module: `torchrun --nproc-per-node 8 -m emim train ...`."""

from __future__ import annotations

import sys

from emim.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
