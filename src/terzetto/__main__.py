"""``python -m terzetto`` is the command `terzetto`."""

import sys

from terzetto.cli import main

sys.exit(main())
