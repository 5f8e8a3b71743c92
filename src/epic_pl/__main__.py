"""The entry point of ``python -m epic_pl`` and ``epic-pl``."""

import os
import sys


def start() -> None:
    """Run the command line.

    Ctrl-C prints one line and exits with code 130, a closed pipe such as ``| head`` with 141.
    """
    try:
        from epic_pl.cli.main import main

        try:
            main()
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        print("epic-pl: interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # it is flushed at the exit
        raise SystemExit(141) from None


if __name__ == "__main__":
    start()
