"""``python -m epic_pl``, which is ``epic-pl``."""

from epic_pl.main import main

main()
