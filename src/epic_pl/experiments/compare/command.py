"""``epic-pl compare``."""

from collections.abc import Sequence
from pathlib import Path

from epic_pl.cli.commands.parser import NonNegativeInt, PositiveInt
from epic_pl.utils.config_files import find_packaged, first_config
from epic_pl.utils.errors import ConfigError


def compare(
    fit_options: Sequence[str],
    methods: str | None = None,
    seeds: PositiveInt = 3,
    splits: bool = False,
    variants: str | None = None,
    tune: NonNegativeInt = 0,
    output: Path | None = None,
    jobs: PositiveInt | None = None,
) -> int:
    """Train methods with several seeds on the same data and schedule, and compare them.

    Each run has a process of its own. Accuracy and cost are compared, and the others are tested
    against the first method. Finished runs with the same options are not repeated. The exit code is
    1 if every run failed, and 130 if interrupted.

    Args:
        fit_options: of ``epic-pl fit``, for all runs.
        methods: names, joined by commas (all methods, and all variants).
        seeds: runs of each method.
        splits: split the data anew for each seed (data.split_seed).
        variants: YAML file, name -> {method, options of fit}.
        tune: first choose options of each method by so many trials on validation, in the spaces
            of docs/compare.md; needs the extra tune.
        output: folder (runs/compare/CONFIG).
        jobs: runs at a time (one a GPU, else 1).

    Raises:
        EpicError: with a message for the user, before the first run.
    """
    if tune and splits:
        raise ConfigError(
            "--tune chooses options on rows that other seeds of --splits test on: leave one out."
        )
    if tune:
        import optuna  # noqa: F401 an extra that the searches need

    import torch
    from rich.console import Console

    from epic_pl.experiments.compare.comparison import Comparison
    from epic_pl.experiments.compare.plan import choose, read_variants
    from epic_pl.experiments.compare.report import show
    from epic_pl.experiments.interruption import terminated_as_interrupted

    comparison = Comparison(
        choose(methods, read_variants(find_packaged("variants", variants)) if variants else []),
        fit_options,
        output or Path("runs/compare") / first_config(fit_options),
        seeds=seeds,
        splits=splits,
        trials=tune,
        jobs=jobs or max(1, torch.cuda.device_count()),
    )
    try:
        with terminated_as_interrupted():
            outcomes = comparison.execute()
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command continues with what is left.") from None
    console = Console()
    show(comparison.report(outcomes), console)
    files = f"{comparison.output}/comparison.md, .json, .png"
    console.print(f"Tables and plot: {files}", soft_wrap=True, markup=False)
    return int(all(outcome.result is None for outcome in outcomes))
