"""``epic-pl reproduce``: train a run again, and compare."""

from pathlib import Path
from typing import Any

from epic_pl.config_files import read_yaml
from epic_pl.errors import ConfigError, printable


def reproduce(run: Path, output: Path = Path("runs/reproduce"), trusted_only: bool = False) -> int:
    """Train a run again, and compare versions, data, metrics and weights with what it has noted.

    Start it in the folder where the run was started. The exit code is 0 if the weights are
    bit-identical, else 1.

    Args:
        run: its folder, .../fit/version_N.
        output: root of the new run.
        trusted_only: as for epic-pl fit.

    Raises:
        EpicError: with a message for the user.
    """
    from epic_pl.cli import run as fit

    made_of, metrics, weights, resumed = _record(run)
    if resumed is not None:
        raise ConfigError(
            f"The run in {run} was resumed from {resumed}: reproduce the run that wrote it."
        )
    places = ["--trusted-only"] * trusted_only
    places += [f"--trainer.default_root_dir={output}"]
    places += [f"--{each}.dirpath=null" for each in ("checkpoint", "last_checkpoint")]
    config = str(run / "config.yaml")
    folder = Path(str(fit(["fit", "--config", config, *places]).trainer.log_dir))
    made_of_now, metrics_now, weights_now, _ = _record(folder)
    for name, was, now in differences(made_of, made_of_now):
        print(printable(f"{name}: {was} then, {now} now"))
    for name in sorted({**metrics, **metrics_now}):
        pair = (each.get(name) for each in (metrics, metrics_now))
        said = ", ".join("-" if each is None else f"{each:.6f}" for each in pair)
        print(printable(f"{name}: {said}"))
    same = weights == weights_now
    said = "bit-identical to" if same else "other than"
    print(f"The weights of {folder} are {said} those of {run}.")
    return 0 if same else 1


def _record(run: Path) -> tuple[dict[str, Any], dict[str, float], str, str | None]:
    """What a run was made of, its metrics, hash of its weights, and what it was resumed from."""
    from epic_pl.callbacks.run_record import RECORD
    from epic_pl.experiments.files import try_read_json

    record = try_read_json(run / RECORD) or {}
    if record and "result" not in record:
        raise ConfigError(f"The run in {run} did not come to its end: resume it first.")
    try:
        result = record["result"]
        metrics = {name: float(value) for name, value in result["metrics"].items()}
        resumed = read_yaml(str(run / "config.yaml")).get("ckpt_path")
        return dict(record["made_of"]), metrics, result["weights"], resumed
    except (AttributeError, LookupError, TypeError, ValueError, OverflowError) as error:
        raise ConfigError(
            f"{run} has no {RECORD} and config.yaml as epic-pl fit writes them ({error!r:.99}): "
            "give the folder of a run, such as runs/food101/fit/version_0."
        ) from error


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """Keys whose values differ, with both values."""
    keys = dict.fromkeys([*one, *other])
    return [(key, one.get(key), other.get(key)) for key in keys if one.get(key) != other.get(key)]
