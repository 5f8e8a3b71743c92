"""``benchmarks/fit_steps.py`` on a fabricated OpenMoji and tiny encoders."""

import json

import pytest
from torch.utils.flop_counter import FlopCounterMode

import fit_steps
from epic_pl.module import EPICModule


@pytest.mark.slow
def test_operations_of_one_step_are_counted(on_openmoji, monkeypatch, capfd):
    for hook in ("on_train_batch_start", "on_train_batch_end"):
        monkeypatch.setattr(EPICModule, hook, getattr(EPICModule, hook))

    def measure(size: int, *own: str) -> tuple[dict[str, float], int]:
        monkeypatch.setattr(fit_steps, "starts", [])
        monkeypatch.setattr(fit_steps, "counter", FlopCounterMode(display=False))
        options = ["--config", "openmoji.yaml", *on_openmoji, "--trainer.max_epochs=1", *own]
        options += ["--cache.level=layers", f"--data.batch_size_per_device={size}"]
        monkeypatch.setattr("sys.argv", ["fit_steps.py", *options])
        fit_steps.main()
        shown = json.loads(capfd.readouterr().out.splitlines()[-1])
        return shown, fit_steps.counter.get_total_flops()

    shown, flops = measure(5)
    assert 0 < shown["fastest_ms"] <= shown["median_ms"]
    assert ("gflop" in shown, flops) == (False, 0)
    steps = shown["steps"]
    shown, flops = measure(5, "--flops")
    assert shown["steps"] == steps - 1  # the counted one takes longer
    assert {"gflop", "floor_ms", "share"} <= shown.keys()
    assert measure(3, "--flops")[1] == pytest.approx(flops * 3 / 5, rel=0.05)
