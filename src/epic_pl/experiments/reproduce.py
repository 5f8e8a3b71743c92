"""``epic-pl reproduce``: train a run again, and compare."""

import argparse
from pathlib import Path
from typing import Any

from epic_pl.config_files import read_yaml
from epic_pl.errors import ConfigError


def parser() -> argparse.ArgumentParser:
    """Parser of ``epic-pl reproduce``."""
    parser = argparse.ArgumentParser(
        "epic-pl reproduce",
        allow_abbrev=False,
        description=(
            "Train a run again from its own config, and compare versions, data, metrics and "
            "weights with what it has noted. Run it in the folder where the run was started. The "
            "exit code is 0 if the weights are bit-identical, else 1."
        ),
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="its folder, .../fit/version_N")
    parser.add_argument("--output", default="runs/reproduce", help="root of the new run")
    parser.add_argument("--trusted-only", action="store_true", help="as for epic-pl fit")
    return parser


def run(argv: list[str]) -> int:
    """Run ``epic-pl reproduce ARGV`` and return the exit code.

    Raises:
        EpicError: with a message for the user.
    """
    options = parser().parse_args(argv)

    from epic_pl.callbacks.run_record import RECORD
    from epic_pl.cli import run as fit
    from epic_pl.experiments.files import read_json

    config, before = options.run / "config.yaml", read_json(options.run / RECORD)
    if before is None or not config.is_file():
        raise ConfigError(
            f"{options.run} has no {RECORD} and config.yaml: give the folder of a run of epic-pl "
            "fit, such as runs/food101/fit/version_0."
        )
    if "result" not in before:
        raise ConfigError(f"The run in {options.run} did not come to its end: resume it first.")
    resumed = read_yaml(str(config)).get("ckpt_path")
    if resumed is not None:
        raise ConfigError(
            f"The run in {options.run} was resumed from {resumed}: reproduce the run that wrote it."
        )
    places = ["--trusted-only"] * options.trusted_only
    places += [f"--trainer.default_root_dir={options.output}"]
    places += [f"--{each}.dirpath=null" for each in ("checkpoint", "last_checkpoint")]
    folder = Path(str(fit(["fit", "--config", str(config), *places]).trainer.log_dir))
    again = read_json(folder / RECORD)
    assert again is not None
    for name, was, now in differences(before["made_of"], again["made_of"]):
        print(f"{name}: {was} then, {now} now")
    then, now = before["result"], again["result"]
    for name in sorted({**then["metrics"], **now["metrics"]}):
        pair = (each["metrics"].get(name) for each in (then, now))
        print(f"{name}: " + ", ".join("-" if each is None else f"{each:.6f}" for each in pair))
    same = then["weights"] == now["weights"]
    said = "bit-identical to" if same else "other than"
    print(f"The weights of {folder} are {said} those of {options.run}.")
    return 0 if same else 1


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """Keys whose values differ, with both values."""
    keys = dict.fromkeys([*one, *other])
    return [(key, one.get(key), other.get(key)) for key in keys if one.get(key) != other.get(key)]
