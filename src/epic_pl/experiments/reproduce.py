"""``epic-pl reproduce``: train a run again, and compare."""

from pathlib import Path
from typing import Any

from epic_pl.config_files import read_yaml
from epic_pl.errors import ConfigError, printable


def reproduce(run: Path, output: Path = Path("runs/reproduce"), trusted_only: bool = False) -> int:
    """Train a run again, and compare versions, data, metrics and weights with its record.

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

    then, resumed = _read_record(run)
    if resumed is not None:
        raise ConfigError(
            f"The run in {run} was resumed from {resumed}: reproduce the run that wrote it."
        )
    places = ["--trusted-only"] * trusted_only
    places += [f"--trainer.default_root_dir={output}"]
    places += [f"--{section}.dirpath=null" for section in ("checkpoint", "last_checkpoint")]
    config = str(run / "config.yaml")
    folder = Path(str(fit(["fit", "--config", config, *places]).trainer.log_dir))
    now, _ = _read_record(folder)
    for name in dict.fromkeys([*then["made_of"], *now["made_of"]]):
        one, other = (record["made_of"].get(name) for record in (then, now))
        if one != other:
            print(printable(f"{name}: {one} then, {other} now"))
    for name in sorted({**then["metrics"], **now["metrics"]}):
        pair = (record["metrics"].get(name) for record in (then, now))
        values = ", ".join("-" if value is None else f"{value:.6f}" for value in pair)
        print(printable(f"{name}: {values}"))
    same = then["weights"] == now["weights"]
    relation = "bit-identical to" if same else "other than"
    print(f"The weights of {folder} are {relation} those of {run}.")
    return 0 if same else 1


def _read_record(run: Path) -> tuple[dict[str, Any], str | None]:
    """``made_of``, ``metrics`` and ``weights`` of a run, and the checkpoint that it resumed."""
    from epic_pl.callbacks.run_record import RECORD
    from epic_pl.files import try_read_json

    content = try_read_json(run / RECORD) or {}
    if content and "result" not in content:
        raise ConfigError(f"The run in {run} did not come to its end: resume it first.")
    try:
        result = content["result"]
        record = {
            "made_of": dict(content["made_of"]),
            "metrics": {name: float(value) for name, value in result["metrics"].items()},
            "weights": result["weights"],
        }
        return record, read_yaml(str(run / "config.yaml")).get("ckpt_path")
    except (AttributeError, LookupError, TypeError, ValueError, OverflowError) as error:
        raise ConfigError(
            f"{run} has no {RECORD} and config.yaml as epic-pl fit writes them ({error!r:.99}): "
            "give the folder of a run, such as runs/food101/fit/version_0."
        ) from error
