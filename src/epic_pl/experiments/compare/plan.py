"""The variants of a comparison, and the list of their runs."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from epic_pl.data.tables.columns import KINDS
from epic_pl.experiments.compare.results import ALONE
from epic_pl.experiments.options import (
    ONE_DEVICE,
    images_key,
    options_key,
    parse_fit,
    refuse_own,
)
from epic_pl.experiments.runs import Run
from epic_pl.nn.methods import Method
from epic_pl.run.epic_cli import as_options
from epic_pl.utils.config_files import find_packaged, read_yaml
from epic_pl.utils.errors import ConfigError
from epic_pl.utils.plugins import find_class, known_classes

# the comparison sets these for each run, so a user's value would be lost
_OWN_OPTIONS = ("seed_everything", "ckpt_path", "model.method", "trainer.default_root_dir")
_ALL_VARIANTS = "variants"  # a word of --methods
_NAME = re.compile(r"[\w.-]+")


class _Loader(yaml.SafeLoader):
    """A loader that reads only true and false as booleans: ``cache.level: off`` is text."""

    yaml_implicit_resolvers = {  # noqa: RUF012 overrides the base class's attribute
        letter: [(tag, regexp) for tag, regexp in pairs if letter in "tTfF" or "bool" not in tag]
        for letter, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


@dataclass(frozen=True)
class Variant:
    """A line of the comparison: a method with options of its own.

    ``chosen`` are further options, which a search has found.
    """

    name: str
    method: str
    options: tuple[str, ...] = ()
    chosen: tuple[str, ...] = ()

    def fit_options(self, shared: Sequence[str]) -> tuple[str, ...]:
        """Options of ``fit`` for this line: the ``shared`` ones of all lines, then its own."""
        method = f"--model.method={self.method}"
        return (*shared, method, *self.options, *self.chosen, *ONE_DEVICE)


def read_variants(path: str) -> list[Variant]:
    """Read the variants of a YAML or JSON file: name -> {method, options of fit}.

    Raises:
        ConfigError: if the file has another content.
    """
    content = read_yaml(path, _Loader)
    if not isinstance(content, Mapping):
        raise ConfigError(f"{path} must map names to a method and options of fit.")
    return [_variant(path, str(name), fields) for name, fields in content.items()]


def _variant(path: str, name: str, fields: Any) -> Variant:
    method = fields.get("method") if isinstance(fields, Mapping) else None
    methods = known_classes(Method)
    if not isinstance(method, str):
        raise ConfigError(
            f"Variant {name!r} of {path} has the method {method!r}: write {name}: {{method: EPIC, "
            f"model.method.hub_width: 32}}; methods are {', '.join(methods)}."
        )
    find_class(Method, method)
    if not _NAME.fullmatch(name) or name in (*methods, _ALL_VARIANTS):
        raise ConfigError(
            f"Variant {name!r} of {path} needs another name: letters, digits, _-. and no method's."
        )
    options = as_options({str(key): value for key, value in fields.items() if key != "method"})
    refuse_own("compare", _OWN_OPTIONS, options)
    return Variant(name, str(fields["method"]), tuple(options))


def choose(names: str | None, variants: Sequence[Variant]) -> list[Variant]:
    """The variants that ``--methods`` names, in its order; all of them for None.

    The word "variants" stands for all variants.

    Raises:
        ConfigError: if there is no such method.
    """
    known = {name: Variant(name, name) for name in known_classes(Method)}
    known |= {variant.name: variant for variant in variants}
    wanted = list(known) if names is None else [name.strip() for name in names.split(",")]
    if _ALL_VARIANTS in wanted and variants:
        place = wanted.index(_ALL_VARIANTS)
        wanted[place : place + 1] = [variant.name for variant in variants]
    for name in wanted:
        if name not in known:
            find_class(Method, name)  # a method of another package, by its import path
    return [known.get(name, Variant(name, name)) for name in dict.fromkeys(wanted)]


def add_alone(variants: Sequence[Variant], names: str, shared: Sequence[str] = ()) -> list[Variant]:
    """The variants, each of ``names`` followed by itself on the text and on the image alone.

    It also follows on the columns alone, if the ``shared`` options name any for the model.

    Raises:
        ConfigError: if a name is not that of a variant.
    """
    wanted, known = [name.strip() for name in names.split(",")], [each.name for each in variants]
    if unknown := [name for name in wanted if name not in known]:
        raise ConfigError(f"--alone names {unknown[0]!r}, but compared are {', '.join(known)}.")
    named = (parse_fit(shared)["data"].get("init_args") or {}) if shared else {}
    typed = any(named.get(f"{kind}_columns") for kind in KINDS)
    compared = []
    for variant in variants:
        compared.append(variant)
        for source in ALONE if variant.name in wanted else ():
            if source != "columns" or typed:
                options = (*variant.options, f"--data.alone={source}")
                compared.append(replace(variant, name=f"{variant.name}-{source}", options=options))
    return compared


def plan(
    variants: Sequence[Variant],
    seeds: int,
    shared: Sequence[str],
    output: Path,
    splits: bool = False,
) -> list[Run]:
    """List all runs: every variant with the first seed, then with the second, and so on.

    The name of a run's folder has the seed and a hash of all other options and of the files of data
    and encoders, so that runs with different options or inputs never share a folder.

    Args:
        variants: lines of the comparison.
        seeds: number of runs of each variant.
        shared: options of ``fit`` for all runs.
        output: folder of all files.
        splits: whether each seed has its own splits, the same for all variants.

    Raises:
        ConfigError: if an option is set by the comparison itself.
        ArgumentError: if ``fit`` does not know an option.
    """
    refuse_own("compare", _OWN_OPTIONS, shared)
    every = [(variant.name, variant.fit_options(shared)) for variant in variants]
    images = cache(lambda section: images_key(json.loads(section)))  # of most runs the same
    keys = []
    for _, options in every:
        parsed = parse_fit(options)
        keys.append(options_key(parsed, images(json.dumps(parsed["data"], default=str)), splits))
    runs = []
    for seed in range(seeds):
        own = [f"--seed_everything={seed}", *([f"--data.split_seed={seed}"] if splits else [])]
        for (name, options), key in zip(every, keys, strict=True):
            folder = output.resolve() / "runs" / f"{name}-{seed}-{key}"
            runs.append(Run(name, seed, (*options, *own), folder))
    return runs


def tuned(
    variants: Sequence[Variant], shared: Sequence[str], output: Path, trials: int
) -> list[Variant]:
    """The variants with the best options on validation that ``trials`` trials found.

    Finished searches are not repeated, others continue. It needs the extra ``tune``.

    Raises:
        ConfigError: if a search has no finished trial.
    """
    from epic_pl.experiments.tune.search import plan_search
    from epic_pl.experiments.tune.study import best_options

    found = []
    for variant in variants:
        space = find_packaged("spaces", find_class(Method, variant.method).space)
        options = variant.fit_options(shared)
        parsed = parse_fit(options)
        key = options_key(parsed, images_key(parsed["data"]), Path(space).read_text(), trials)
        folder = output.resolve() / "tune" / f"{variant.name}-{key}"
        best = best_options(plan_search(options, space, folder), trials)
        if best is None:
            raise ConfigError(f"No options chosen for {variant.name}: see {folder}/trials.csv.")
        found.append(replace(variant, chosen=tuple(as_options(best))))
    return found
