"""One rank of xbridge as a script, for launchers that cannot start a module (DeepSpeed's slurm launcher)."""

import sys

from xbridge.cli import main

if __name__ == "__main__":
    sys.exit(main())
