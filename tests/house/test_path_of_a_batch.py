"""The files that a batch passes are those that the page on the architecture names."""

import re
import sys
from pathlib import Path

import torch

import epic_pl
import tiny_runs
from epic_pl.nn import EPIC


def test_a_batch_crosses_the_files_that_the_page_on_architecture_names(make):
    """14 with the default method and head; 96 pixels have more patches than prompts read."""
    head = {"network": "wide", "similarity": True, "boundary": True}
    module = make(encoders={"image_size": 96}, options=vars(EPIC()), head=head).eval()
    batch, crossed = tiny_runs.batch(), set()
    batch["pixel_values"] = torch.randn(4, 3, 96, 96)
    package = Path(epic_pl.__file__).parent

    def note(frame, event, _):
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(package):
            crossed.add(path)

    sys.setprofile(note)
    try:
        module(batch)
    finally:
        sys.setprofile(None)
    page = (Path(__file__).parents[2] / "docs" / "architecture.md").read_text()
    (path,) = re.findall("### Batch to logits(.*?)These are fourteen files", page, re.DOTALL)
    named = [Path(name).name for name in re.findall(r"[\w/]+\.py", path)]
    assert sorted(named) == sorted(path.name for path in crossed)
    assert len(named) == 14
