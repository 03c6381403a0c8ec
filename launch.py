"""Start here: `python launch.py --config <yaml> --train`; `--help` tells more."""

import sys

from threestudio.cli import main

if __name__ == "__main__":
    sys.exit(main())
