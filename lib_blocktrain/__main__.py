"""``python -m lib_blocktrain``: hands over to the command line."""

import sys

from lib_blocktrain.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
