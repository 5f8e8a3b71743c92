"""What ``epic-pl compare`` runs: methods by name, the options of each run, and which are done."""

import hashlib
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from epic_pl.arguments import ONE_DEVICE, as_options
from epic_pl.cli import EPICCLI, run
from epic_pl.errors import ConfigError
from epic_pl.experiments.compare.files import read_json, write_json
from epic_pl.nn.methods import METHODS

# what differs from run to run, so that an option for all of them would be lost
_OWN_OPTIONS = ("seed_everything", "ckpt_path", "model.method", "trainer.default_root_dir")
_ALL_VARIANTS = "variants"  # a word of --methods
_NAME = re.compile(r"[\w.-]+")


class _Loader(yaml.SafeLoader):
    """Takes only true and false for truth values, as configs do: ``cache.level: off`` is a word."""

    yaml_implicit_resolvers = {  # noqa: RUF012 the base class's own
        letter: [(tag, regexp) for tag, regexp in pairs if letter in "tTfF" or "bool" not in tag]
        for letter, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


@dataclass(frozen=True)
class Entry:
    """A line of the comparison: a method of the registry, and what is set for it alone."""

    name: str
    method: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """One training: its entry and seed, all options of ``fit``, and where its files lie.

    ``key`` is a hash of all options as parsed and of the data's files that they name; files with
    another key are of another run.
    """

    name: str
    method: str
    seed: int
    options: tuple[str, ...]
    folder: Path
    key: str

    def result(self) -> dict[str, Any] | None:
        """What the run has left if it is done."""
        content = read_json(self.folder / "result.json")
        return content if content and content.get("key") == self.key else None

    def prepare(self) -> None:
        """Write what the worker needs to know; what another configuration left here goes."""
        before = read_json(self.folder / "run.json")
        if before is not None and before.get("key") != self.key:
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        content = {
            "name": self.name,
            "method": self.method,
            "seed": self.seed,
            "options": list(self.options),
            "key": self.key,
        }
        write_json(self.folder / "run.json", content)


def read_variants(path: str) -> list[Entry]:
    """Entries of a YAML or JSON file: name -> {method, options of fit}.

    Raises:
        ConfigError: if it cannot be read as that.
    """
    try:
        content = yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"The variants {path} cannot be read: {error}.") from error
    if not isinstance(content, Mapping):
        raise ConfigError(f"{path} is no mapping of names to a method and options of fit.")
    return [_variant(path, str(name), fields) for name, fields in content.items()]


def _variant(path: str, name: str, fields: Any) -> Entry:
    if not isinstance(fields, Mapping) or "method" not in fields:
        raise ConfigError(
            f"Variant {name!r} of {path} names no method: write {name}: {{method: epic, "
            "model.hub_width: 32}, with any options of fit behind the method."
        )
    if not _NAME.fullmatch(name) or name in (*METHODS, _ALL_VARIANTS):
        raise ConfigError(
            f"Variant {name!r} of {path} needs another name: letters, digits, '_', '-' and '.', "
            f"and neither {_ALL_VARIANTS!r} nor that of a method."
        )
    options = {str(key): value for key, value in fields.items() if key != "method"}
    refuse_own([f"--{key}" for key in options])
    return Entry(name, str(fields["method"]), tuple(as_options(options)))


def choose(names: str | None, variants: Sequence[Entry]) -> list[Entry]:
    """The entries that ``--methods`` names, in its order, "variants" for all of these; else all.

    Raises:
        ConfigError: if there is no such method.
    """
    known = {name: Entry(name, name) for name in METHODS} | {each.name: each for each in variants}
    wanted = list(known) if names is None else [name.strip() for name in names.split(",")]
    if _ALL_VARIANTS in wanted and variants:
        at = wanted.index(_ALL_VARIANTS)
        wanted[at : at + 1] = [each.name for each in variants]
    unknown = [name for name in wanted if name not in known]
    unknown += [each.method for each in variants if each.method not in METHODS]
    if unknown:
        raise ConfigError(
            f"There is no method {', '.join(map(repr, unknown))}; there are: {', '.join(known)}."
        )
    return [known[name] for name in dict.fromkeys(wanted)]


def refuse_own(options: Sequence[str]) -> None:
    """Refuse options that the comparison sets itself, in each run anew.

    Raises:
        ConfigError: naming the first one.
    """
    for option in options:
        name = option.removeprefix("--").split("=")[0]
        if option.startswith("--") and name in _OWN_OPTIONS:
            raise ConfigError(
                f"epic-pl compare sets {name} itself in every run: leave it out. --methods and "
                "--variants say what is trained, --seeds how often, --output where files go."
            )


def plan(
    entries: Sequence[Entry],
    seeds: int,
    shared: Sequence[str],
    output: Path,
    splits: bool = False,
) -> list[Run]:
    """All runs: every entry with the first seed, then with the second, and so on.

    Args:
        entries: what is compared.
        seeds: how often each is trained.
        shared: options of ``fit`` for all.
        output: the comparison's folder.
        splits: whether the data is cut anew for each seed, for all methods alike.

    Raises:
        ConfigError: if an option is the comparison's own.
        ArgumentError: if ``fit`` does not know an option.
    """
    refuse_own(shared)
    runs: dict[str, list[Run]] = {}
    for entry in entries:
        # options of a method that a config names mean nothing to the others
        method = (f"--model.method={entry.method}", "--model.method_options=null")
        options = (*shared, *method, *entry.options, *ONE_DEVICE)
        parsed = parsed_options((*options, *_seeded(0, splits)))
        data = data_files(parsed)
        for seed in range(seeds):
            parsed["seed_everything"] = seed
            if splits:
                parsed["data"]["init_args"]["split_seed"] = seed
            runs.setdefault(entry.name, []).append(
                Run(
                    entry.name,
                    entry.method,
                    seed,
                    (*options, *_seeded(seed, splits)),
                    output.resolve() / "runs" / f"{entry.name}-{seed}",
                    digest([parsed, data] if data else parsed),
                )
            )
    return [run for same_seed in zip(*runs.values(), strict=True) for run in same_seed]


def _seeded(seed: int, splits: bool) -> list[str]:
    drawn = [f"--data.split_seed={seed}"] if splits else []
    return [f"--seed_everything={seed}", *drawn]


def data_files(parsed: Mapping[str, Any]) -> dict[str, str]:
    """Hash of each file that an option of the data names: rows that were mended are others.

    But for rows to predict, which nothing is trained on.
    """
    hashes = {}
    for name, value in parsed["data"].get("init_args", {}).items():
        with suppress(OSError):  # among others of a text that is no path
            if isinstance(value, str) and name != "predict_table" and Path(value).is_file():
                state = Path(value).stat()
                hashes[name] = _hash_of(value, state.st_size, state.st_mtime_ns)
    return hashes


@lru_cache
def _hash_of(path: str, size: int, changed: int) -> str:
    """Of a file's content, read once as long as its ``size`` and time of change stay."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(content: Any) -> str:
    """Hash of options as parsed."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


class _ParsingCLI(EPICCLI):
    """Parses all that ``fit`` takes, and builds nothing."""

    def _set_seed(self) -> None:
        pass

    def instantiate_classes(self) -> None:
        pass

    def _run_subcommand(self, subcommand: str) -> None:
        pass


def parsed_options(options: Sequence[str]) -> dict[str, Any]:
    """What ``fit`` makes of these options, defaults and configs included."""
    parsed: dict[str, Any] = run(["fit", *options], _ParsingCLI).config["fit"].as_dict()
    return parsed
