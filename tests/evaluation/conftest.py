"""The command line as explain and export are tested with it."""

import pytest

from epic_pl.main import main


@pytest.fixture
def told(capsys):
    """The command line: exit code, stdout and stderr."""

    def told(*arguments):
        with pytest.raises(SystemExit) as stop:
            main([*map(str, arguments)])
        said = capsys.readouterr()
        return stop.value.code, said.out, said.err

    return told
