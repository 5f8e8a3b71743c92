"""The entry point of ``python -m epic_pl`` and ``epic-pl``."""

import sys


def start() -> None:
    """Run the command line; Ctrl-C prints one line and exits with code 130."""
    try:
        from epic_pl.cli.main import main

        main()
    except KeyboardInterrupt:
        print("epic-pl: interrupted", file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    start()
