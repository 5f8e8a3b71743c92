"""``epic-pl compare``."""

from collections.abc import Sequence
from functools import partial
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
    alone: str | None = None,
    tune: NonNegativeInt = 0,
    output: Path | None = None,
) -> int:
    """Train methods with several seeds on the same data and schedule, and compare them.

    Each run has a process of its own. Tables show accuracy and cost, and p-values of each method's
    difference from the first. Finished runs with the same options are not repeated. The exit code
    is 1 if every run failed, and 130 if interrupted.

    Args:
        fit_options: options of epic-pl fit, for all runs.
        methods: names, joined by commas (all methods, and all variants).
        seeds: number of runs of each method.
        splits: split the data anew for each seed (data.split_seed).
        variants: YAML file of name -> {method, options of fit}.
        alone: methods, joined by commas, that are trained on the text alone, on the image alone,
            and on the columns alone, too; the tables say what the others add.
        tune: number of trials on validation that first choose the options of each method, in the
            spaces of docs/compare.md; needs the extra tune.
        output: folder of all files (runs/compare/CONFIG).

    Raises:
        EpicError: if an option is wrong, before the first run.
    """
    if tune and splits:
        raise ConfigError("--tune would choose on test rows of other --splits: leave one out.")
    if tune:
        import optuna  # noqa: F401 an extra that the searches need

    from epic_pl.experiments.compare.plan import add_alone, choose, plan, read_variants, tuned
    from epic_pl.experiments.compare.summary import show, write_comparison
    from epic_pl.experiments.runs import execute
    from epic_pl.experiments.training import store_features, train_and_test

    chosen = choose(methods, read_variants(find_packaged("variants", variants)) if variants else [])
    chosen = add_alone(chosen, alone, fit_options) if alone else chosen
    output = output or Path("runs/compare") / first_config(fit_options)
    runs = plan(chosen, seeds, fit_options, output, splits)
    notes = f"Options: `{' '.join(fit_options)}`."
    report = partial(write_comparison, folder=output, reference=chosen[0].name)
    try:
        store_features(runs)
        if tune:
            chosen = tuned(chosen, fit_options, output, tune)
            runs = plan(chosen, seeds, fit_options, output)
            options = (f"`{each.name}` `{' '.join(each.chosen)}`" for each in chosen)
            notes += f" Chosen by {tune} trials on validation: {'; '.join(options)}."
        execute(runs, train_and_test, lambda: report(runs, notes=notes))
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command continues the comparison.") from None
    show(report(runs, notes=notes))
    print(f"Tables and plot: {output}/comparison.md, .json, .png")
    return int(all(run.result is None for run in runs))
