import pytest
import torch

import tiny_runs


@pytest.fixture(scope="session")
def fitted(make, tmp_path_factory):
    """A module with named classes that was trained for an epoch, and its checkpoint."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("fitted")
    model = make(class_names=["blue", "green", "red"], preprocessing={"image": {"size": 32}})
    trainer = tiny_runs.trainer(root, max_epochs=1)
    trainer.fit(model, tiny_runs.loader(tiny_runs.samples()))
    trainer.save_checkpoint(root / "fitted.ckpt")
    return model, root / "fitted.ckpt"
