import torch
from torch.utils.data import DataLoader

from epic_pl.seen_rows import evenly_spaced


def test_rows_are_evenly_spaced_from_32_to_512():
    loader = DataLoader(range(2048), batch_size=100, shuffle=True)
    seen = torch.cat(list(evenly_spaced(loader)))
    assert seen.tolist() == list(range(0, 2048, 4))
    few = evenly_spaced(DataLoader(range(40), batch_size=2))
    assert torch.cat(list(few)).tolist() == [*range(40)]
    assert evenly_spaced(DataLoader(range(31))) is None
