import io

from rich.console import Console

from epic_pl.features.store.progress import progress_bar


def drawn(advances, total=100e6, show=True):
    """The line as it stands after these bytes, one advance a second."""
    now = [0.0]
    # not a terminal: the line is written once, as it stands at the end
    console = Console(file=io.StringIO(), width=120, get_time=lambda: now[0])
    with progress_bar("image features", total, show, console) as advance:
        for nbytes in advances:
            now[0] += 1
            advance(nbytes)
    return console.file.getvalue()


def test_it_tells_how_much_how_fast_and_how_long_it_still_takes():
    line = drawn([10e6] * 4)
    assert "image features" in line
    assert "40.0/100.0 MB 10.0 MB/s ETA 0:00:06" in line
    assert "20.0 MB/s ETA 0:00:01" in drawn([20e6] * 4)


def test_helping_other_ranks_makes_the_total_larger():
    assert "120.0/120.0 MB" in drawn([60e6] * 2)


def test_it_is_quiet_where_it_is_not_shown():
    assert drawn([10e6], show=False) == ""
