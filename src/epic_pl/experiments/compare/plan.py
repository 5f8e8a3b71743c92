"""The runs of a comparison: methods by name, options, and folders."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from epic_pl.cli.epic_cli import as_options
from epic_pl.experiments.options import ONE_DEVICE, parsed_options, refuse_own, run_key
from epic_pl.nn.methods import Method
from epic_pl.utils.config_files import read_yaml
from epic_pl.utils.errors import ConfigError
from epic_pl.utils.files import try_read_json, write_json
from epic_pl.utils.plugins import find_class, known_classes

# set for each run, so that an option for all of them would be lost
_OWN_OPTIONS = ("seed_everything", "ckpt_path", "model.method", "trainer.default_root_dir")
_ALL_VARIANTS = "variants"  # a word of --methods
_NAME = re.compile(r"[\w.-]+")


class _Loader(yaml.SafeLoader):
    """Reads only true and false as booleans, as configs do: ``cache.level: off`` is text."""

    yaml_implicit_resolvers = {  # noqa: RUF012 the base class's own
        letter: [(tag, regexp) for tag, regexp in pairs if letter in "tTfF" or "bool" not in tag]
        for letter, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


@dataclass(frozen=True)
class Entry:
    """A line of the comparison: a method, and the options of this line only.

    ``chosen`` are the options among them that tuning has found.
    """

    name: str
    method: str
    options: tuple[str, ...] = ()
    chosen: tuple[str, ...] = ()

    def fit_options(self, shared: Sequence[str]) -> tuple[str, ...]:
        """Options of ``fit`` that make this line, after those of all lines."""
        return (*shared, f"--model.method={self.method}", *self.options, *ONE_DEVICE)


@dataclass(frozen=True)
class Run:
    """One training: its entry and seed, all options of ``fit``, and the folder of its files.

    With ``search``, the path of a space and a number of trials, it is a search for the best options
    instead.
    """

    name: str
    seed: int
    options: tuple[str, ...]
    folder: Path
    search: tuple[str, int] | None = None

    def result(self) -> dict[str, Any] | None:
        """Result of the run if it is finished."""
        return try_read_json(self.folder / "result.json")

    def prepare(self) -> None:
        """Write the file that the worker reads."""
        self.folder.mkdir(parents=True, exist_ok=True)
        fields = {name: value for name, value in vars(self).items() if name != "folder"}
        write_json(self.folder / "run.json", fields)


@dataclass(frozen=True)
class Outcome:
    """State of a run: its result, or a message that says why there is none.

    ``ended`` is False if the run was not started, or was interrupted.
    """

    run: Run
    message: str = ""
    result: dict[str, Any] | None = None
    ended: bool = True


def read_variants(path: str) -> list[Entry]:
    """Entries of a YAML or JSON file: name -> {method, options of fit}.

    Raises:
        ConfigError: if the file cannot be read as that.
    """
    content = read_yaml(path, _Loader)
    if not isinstance(content, Mapping):
        raise ConfigError(f"{path} is no mapping of names to a method and options of fit.")
    return [_variant(path, str(name), fields) for name, fields in content.items()]


def _variant(path: str, name: str, fields: Any) -> Entry:
    method = fields.get("method") if isinstance(fields, Mapping) else None
    methods = known_classes(Method)
    if not isinstance(method, str):
        raise ConfigError(
            f"Variant {name!r} of {path} has the method {method!r}: write {name}: {{method: EPIC, "
            "model.method.hub_width: 32}, with any options of fit after it. Methods are "
            f"{', '.join(methods)}."
        )
    find_class(Method, method)
    if not _NAME.fullmatch(name) or name in (*methods, _ALL_VARIANTS):
        raise ConfigError(
            f"Variant {name!r} of {path} needs another name, of letters, digits, '_', '-' and '.', "
            "which is no method's."
        )
    options = as_options({str(key): value for key, value in fields.items() if key != "method"})
    refuse_own("compare", _OWN_OPTIONS, options)
    return Entry(name, str(fields["method"]), tuple(options))


def choose(names: str | None, variants: Sequence[Entry]) -> list[Entry]:
    """The entries named by ``--methods``, in its order; all of them for None.

    The word "variants" stands for all variants.

    Raises:
        ConfigError: if there is no such method.
    """
    known = {name: Entry(name, name) for name in known_classes(Method)}
    known |= {variant.name: variant for variant in variants}
    wanted = list(known) if names is None else [name.strip() for name in names.split(",")]
    if _ALL_VARIANTS in wanted and variants:
        place = wanted.index(_ALL_VARIANTS)
        wanted[place : place + 1] = [variant.name for variant in variants]
    for name in wanted:
        if name not in known:
            find_class(Method, name)  # of another package, by its import path
    return [known.get(name, Entry(name, name)) for name in dict.fromkeys(wanted)]


def plan(
    entries: Sequence[Entry],
    seeds: int,
    shared: Sequence[str],
    output: Path,
    splits: bool = False,
) -> list[Run]:
    """All runs: every entry with the first seed, then with the second, and so on.

    The name of a run's folder has the seed and a hash of all other options and of the data's files,
    so that runs with other options never share a folder. Arguments are those of
    :class:`~epic_pl.experiments.compare.comparison.Comparison`.

    Raises:
        ConfigError: if an option is set by the comparison itself.
        ArgumentError: if ``fit`` does not know an option.
    """
    refuse_own("compare", _OWN_OPTIONS, shared)
    entry_options = [entry.fit_options(shared) for entry in entries]
    keys = [run_key(parsed_options(options), splits) for options in entry_options]
    runs = []
    for seed in range(seeds):
        own = [f"--seed_everything={seed}", *([f"--data.split_seed={seed}"] if splits else [])]
        for entry, options, key in zip(entries, entry_options, keys, strict=True):
            folder = output.resolve() / "runs" / f"{entry.name}-{seed}-{key}"
            runs.append(Run(entry.name, seed, (*options, *own), folder))
    return runs
