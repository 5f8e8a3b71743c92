"""``python -m epic_pl``, which is ``epic-pl``."""

import sys


def start() -> None:
    """Run the command line; where Ctrl-C interrupts it, one line and exit code 130 are left."""
    try:
        from epic_pl.cli.main import main

        main()
    except KeyboardInterrupt:
        print("epic-pl: interrupted", file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    start()
