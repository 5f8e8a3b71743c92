"""Feed damaged files to every reader of the package, in processes of their own.

    python benchmarks/fuzz.py [--minutes 30] [--jobs 2] [--seed 0] [--target tables]
    python benchmarks/fuzz.py --target tables --seed 0 --case 1234    # again, with its traceback

Targets are tables, checkpoints, manifests (of feature stores) and configs. Case N of a seed is
always the same input: a sound file with bytes, words or values exchanged. A finding is any
exception but an EpicError, the death of a process, or a case of more than a minute; the run goes
on behind it. Exit code 1 if there is any.
"""

import argparse
import contextlib
import copy
import io
import json
import multiprocessing as mp
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "tests"))

LIMIT_S = 60.0  # of a case; others may take the cores for long
CONTEXT = "spawn"  # how processes are started
_MEMORY = 16 * 2**30  # bytes of addresses: a size out of a file is refused, not tried
_WORDS = [
    *(
        b"null",
        b"[",
        b"]",
        b"{",
        b"}",
        b'{"a":',
        b'"',
        b"'",
        b",",
        b":",
        b"\n",
        b"\r",
        b"\t",
        b"\0",
    ),
    *(b"NaN", b"-1", b"1e999", b"9" * 30, b"\xff", b"\xef\xbb\xbf", b"\\ud83d", b"../", b"[/red]"),
    *(b"&a ", b"*a", b"<<: ", b"!!timestamp ", b"!!bool ", b"2024-99-99", b"? ", b"- ", b"--- "),
]
_VALUES = [
    *(None, True, -1, 0, 2**63, 10**15, -1.5, float("nan"), "", "a\0b", "../../x", "[/red]"),
    *([], {}, [[]], {"a": None}, [-1], ["a"], "x" * 5000),
]

Run = Callable[[random.Random], None]


def _depth(rng: random.Random) -> int:
    """How often something is nested or repeated; much is rare, for parsers take long."""
    return rng.choice((100, 400)) if rng.random() < 0.005 else rng.randrange(3)


def exchanged_bytes(content: bytes, rng: random.Random) -> bytes:
    """A few bytes or parts changed, removed, doubled, or replaced by words."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        at = rng.randrange(len(data) + 1)
        end = min(len(data), at + rng.choice((1, 2, 4, 16, 64)))
        kind = rng.randrange(6)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at:end] = rng.choice(_WORDS)
        elif kind == 2:
            data[at:at] = rng.choice(_WORDS) * rng.choice((1, 3, _depth(rng)))
        elif kind == 3:
            del data[at:end]
        elif kind == 4:
            data[at:at] = data[rng.randrange(len(data) + 1) :][:64]
        else:
            data[at:end] = rng.randbytes(end - at)
    return bytes(data[: rng.randrange(len(data) + 1)] if rng.random() < 0.1 else data)


def exchanged_values(value: Any, rng: random.Random) -> Any:
    """A copy of nested dictionaries and lists with a few values replaced, removed or added."""
    root = {"": copy.deepcopy(value)}
    for _ in range(rng.choice((1, 1, 2, 3))):
        place, key = root, ""
        while isinstance(place[key], dict | list) and place[key] and rng.random() < 0.8:
            place = place[key]
            key = rng.choice(list(place) if isinstance(place, dict) else range(len(place)))
        if rng.random() < 0.2 and key != "":
            del place[key]
        elif rng.random() < 0.1 and isinstance(place, dict):
            place[rng.choice(["a", "class_path", "[/red]"])] = rng.choice(_VALUES)
        else:
            new = copy.deepcopy(rng.choice(_VALUES))
            for _ in range(_depth(rng)):
                new = [new]
            place[key] = new
    return root.get("")


# ------------------------------------------------------------------ targets


def tables(folder: Path) -> Run:
    """CSV, TSV, JSONL, JSON and Parquet files, read and built into rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from epic_pl.data.tables.reader import read_table
    from epic_pl.data.tables.rows import RowOptions, build_rows

    rows = [
        {"text": f"text {n}", "label": "ab"[n % 2], "split": "train" if n < 6 else "val"}
        for n in range(8)
    ]
    heads = [list(rows[0]), *(list(row.values()) for row in rows)]
    nested = [row | {"tags": ["x", "y"], "more": {"a": n}} for n, row in enumerate(rows)]
    named = {"info": {"features": {"label": {"names": ["a", "b"], "_type": "ClassLabel"}}}}
    coded = pa.Table.from_pylist([row | {"label": n % 2} for n, row in enumerate(rows)])
    parquet = []
    codes = pa.array(["a", "b"] * 4).dictionary_encode()
    for table in (
        pa.Table.from_pylist(nested),
        pa.Table.from_pylist(rows).set_column(1, "label", codes),
        coded.replace_schema_metadata({"huggingface": json.dumps(named)}),
    ):
        sink = io.BytesIO()
        pq.write_table(table, sink)
        parquet.append(sink.getvalue())
    seeds = [
        ("csv", "\n".join(map(",".join, heads)).encode()),
        ("csv", "\n".join(f'"{a}, ""x""";{b};{c}' for a, b, c in heads).encode()),
        ("tsv", "\n".join(map("\t".join, heads)).encode()),
        ("jsonl", "\n".join(map(json.dumps, nested)).encode()),
        ("json", json.dumps(nested).encode()),
        *(("parquet", each) for each in parquet),
    ]
    options = RowOptions(
        image_column=None,
        text_columns="text",
        label_column="label",
        label_separator=None,
        split_column="split",
        id_column=None,
        classes=None,
        val_size=1,
        test_size=0,
        split_seed=0,
    )

    def run(rng: random.Random) -> None:
        suffix, content = rng.choice(seeds)
        path = folder / f"t.{suffix}"
        if suffix in ("json", "jsonl") and rng.random() < 0.5:
            changed = exchanged_values(nested, rng)
            lines = changed if suffix == "jsonl" and isinstance(changed, list) else [changed]
            path.write_text("\n".join(_dumps(each) for each in lines))
        else:
            path.write_bytes(exchanged_bytes(content, rng))
        table = read_table(path)
        table.to_pylist()
        build_rows(table, options)

    return run


def _dumps(value: Any) -> str:
    """JSON, or its own beginning where it is too deep for Python's writer."""
    try:
        return json.dumps(value)
    except RecursionError:
        return '{"text":' + "[" * 30_000


def checkpoints(folder: Path) -> Run:
    """Checkpoint files with sound check sums and without, read and loaded into a model."""
    import torch

    import tiny_encoders
    import tiny_runs
    from epic_pl.module.checkpoint import read_checkpoint

    vit, bert = (getattr(tiny_encoders, f"write_{n}")(folder / n) for n in ("vit", "bert"))
    module = tiny_runs.module(vit, bert, class_names=["a", "b", "c"])
    path = folder / "sound.ckpt"
    tiny_runs.save(module, path)
    content = torch.load(path, weights_only=True)
    sound = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}

    def run(rng: random.Random) -> None:
        file, kind = io.BytesIO(), rng.randrange(3)
        if kind == 0:
            file.write(exchanged_bytes(sound, rng))
        elif kind == 1:  # with the right check sums
            with zipfile.ZipFile(file, "w") as archive:
                for name, part in parts.items():
                    changed = name.endswith("data.pkl") or rng.random() < 0.02
                    archive.writestr(name, exchanged_bytes(part, rng) if changed else part)
        else:
            changed = exchanged_values(content, rng)
            try:
                torch.save(changed, file)
            except RecursionError:  # too deep for a pickle
                return
        file.seek(0)
        module.load_state_dict(module._checked_state(read_checkpoint(file)))

    return run


def manifests(folder: Path) -> Run:
    """The spec and shards of feature stores, opened, asked and verified."""
    import torch
    from safetensors.torch import load, save

    from epic_pl.features.store import upkeep
    from epic_pl.features.store.build import Wanted, build
    from epic_pl.features.store.reader import FeatureStore
    from epic_pl.features.store.spec import SPEC, Field, StoreSpec

    hashes = [f"item-{n}" for n in range(6)]
    lengths = torch.tensor([2, 1, 4, 3, 4, 2])
    stores = []
    for ragged, dtype in ((False, "float32"), (True, "float16"), (True, "int8")):
        fields = (Field("memory", (2, 4, 8), 1), Field("pooled", (9,)))
        spec = StoreSpec("text", {"level": "layers", "layers": [1]}, fields, dtype, ragged, "tiny")

        def produce(at: Any) -> Any:
            count = int(lengths[at].max())
            tensors = {"memory": torch.ones(len(at), 2, count, 8), "pooled": torch.ones(len(at), 9)}
            return tensors, lengths[at]

        if not ragged:
            produce = lambda at: (  # noqa: E731
                {"memory": torch.ones(len(at), 2, 4, 8), "pooled": torch.ones(len(at), 9)},
                None,
            )
        (store,) = build(folder / "sound", [Wanted(spec, hashes, produce)], progress=False)
        (shard,) = store.folder.glob("shard-*")
        stores.append((spec.to_json(), shard.name, shard.read_bytes()))

    def run(rng: random.Random) -> None:
        plain, name, content = rng.choice(stores)
        described = json.dumps(plain)
        kind = rng.randrange(4)
        if kind == 0:
            described = exchanged_bytes(described.encode(), rng).decode("latin-1")
        elif kind == 1:
            described = _dumps(exchanged_values(plain, rng))
        elif kind == 2:
            content = exchanged_bytes(content, rng)
        else:
            tensors = load(content)
            each = rng.choice(sorted(tensors))
            tensor = tensors.pop(each)
            if rng.random() < 0.8:
                ways = (tensor[:1], tensor[None], tensor.flatten(), tensor.double(), ~tensor.bool())
                tensors[rng.choice(sorted([*tensors, each]))] = rng.choice(ways).contiguous()
            content = save(tensors)
        place = folder / "changed"
        shutil.rmtree(place, ignore_errors=True)
        store = place / _folder_name(described)
        store.mkdir(parents=True)
        (store / SPEC).write_text(described, encoding="latin-1" if kind == 0 else "utf-8")
        (store / name).write_bytes(content)
        if rng.random() < 0.1:  # printing takes longer than all else
            with contextlib.redirect_stdout(io.StringIO()):
                upkeep.info(place)
                upkeep.verify(place)
        opened = FeatureStore(store)
        if len(opened):
            opened.gather(opened.rows(hashes))

    return run


def _folder_name(described: str) -> str:
    """The name that a changed spec would have, so that it is read to its end."""
    import dataclasses

    from epic_pl.features.store.spec import Field, StoreSpec

    try:
        plain = json.loads(described)
        plain.pop("format")
        known = {field.name for field in dataclasses.fields(StoreSpec)} & set(plain)
        plain["fields"] = tuple(Field(**field) for field in plain["fields"])
        key = StoreSpec(**{name: plain[name] for name in known}).key
    except Exception:
        key = "0" * 16
    return f"text-{key}"


def configs(folder: Path) -> Run:
    """YAML as a config, variants and a search space, and its values as a model's options."""
    import yaml

    from epic_pl.config_files import read_yaml
    from epic_pl.experiments.compare.plan import read_variants
    from epic_pl.experiments.tune.space import read_space
    from epic_pl.module.checkpoint import refuse_classes
    from epic_pl.module.config import EncodersConfig, OptimConfig, as_config
    from epic_pl.module.losses import LossConfig
    from epic_pl.nn.epic import EPICConfig

    sections = {
        "encoders": (EncodersConfig, {"image": {"name": "a"}, "text": {"name": "b"}}),
        "epic": (EPICConfig, {"num_prompts": 4, "prompt_attention": "joint"}),
        "optim": (OptimConfig, {"lr": 1e-3, "warmup": 0.1}),
        "loss": (LossConfig, {}),
    }
    model = {name: options for name, (_, options) in sections.items()}
    variants = {"wide": {"method": "epic", "model.epic.hub_width": 32}}
    space = {"model.optim.lr": {"low": 1e-4, "high": 0.01, "log": True}, "x": [1, 2]}
    path = folder / "x.yaml"

    def run(rng: random.Random) -> None:
        kind = rng.randrange(3)
        value = (model, variants, space)[kind]
        if rng.random() < 0.5:
            text = _dumps(exchanged_values(value, rng)).encode()  # JSON is YAML
        else:
            text = exchanged_bytes(yaml.safe_dump(value).encode(), rng)
        path.write_bytes(text)
        if kind:
            (read_variants, read_space)[kind - 1](str(path))
            return
        refuse_classes(text.decode("latin-1"), "x.ckpt")
        content = read_yaml(str(path))
        for name, (config, _) in sections.items():
            if isinstance(content, dict) and name in content:
                as_config(config, content[name])

    return run


TARGETS: dict[str, Callable[[Path], Run]] = {
    each.__name__: each for each in (tables, checkpoints, manifests, configs)
}

# ------------------------------------------------------------------ processes


def one_case(run: Run, seed: int, case: int) -> dict[str, str] | None:
    """Run a case; a finding is an exception that is none of the package's own."""
    from jsonargparse import ArgumentError

    from epic_pl.errors import EpicError

    try:
        run(random.Random(f"{seed}/{case}"))
    except (EpicError, ArgumentError):
        pass
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        ours = [f for f in traceback.extract_tb(error.__traceback__) if "epic_pl" in f.filename]
        at = ours[-1] if ours else last
        where = f"{Path(at.filename).name}:{at.lineno} {at.name}"
        return {"kind": f"{type(error).__name__} in {where}", "text": f"{error!s:.200}"}
    return None


def work(target: str, seed: int, first: int, step: int, now: Any, pipe: Connection) -> None:
    """Run cases until the process is ended; ``now`` is the case and when it began."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 2)
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=os.environ["EPIC_PL_CACHE"]) as folder:
        run = TARGETS[target](Path(folder))
        case = first
        while True:
            now[0], now[1] = case, time.monotonic()
            if found := one_case(run, seed, case):
                pipe.send({**found, "case": case})
            case += step


class Worker:
    """A process that runs every ``step``-th case, started anew behind one that ends it."""

    def __init__(self, target: str, seed: int, first: int, step: int) -> None:
        self.target, self.seed, self.first, self.step = target, seed, first, step
        self.start(first)

    def start(self, case: int) -> None:
        """Start a process at a case."""
        context = mp.get_context(CONTEXT)
        self.now = context.Array("d", [case, 0.0], lock=False)
        self.pipe, theirs = context.Pipe(duplex=False)
        arguments = (self.target, self.seed, case, self.step, self.now, theirs)
        self.process = context.Process(target=work, args=arguments, daemon=True)
        self.process.start()
        theirs.close()

    @property
    def executions(self) -> int:
        """Number of cases that were run."""
        return (int(self.now[0]) - self.first) // self.step

    def findings(self) -> list[dict[str, Any]]:
        """What it has found since the last look; a process that died or hangs is started again."""
        found = []
        try:
            while self.pipe.poll():
                found.append(self.pipe.recv())
        except EOFError:
            pass
        case, began = int(self.now[0]), self.now[1]
        hangs = began and time.monotonic() - began > LIMIT_S
        if hangs or not self.process.is_alive():
            kind = f"more than {LIMIT_S:.0f} s" if hangs else f"exit code {self.process.exitcode}"
            found.append({"kind": kind, "text": "the process was ended", "case": case})
            self.end()
            self.start(case + self.step)
        return found

    def end(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.join()
        self.pipe.close()


def fuzz(target: str, seed: int, seconds: float, jobs: int) -> tuple[int, dict[str, Any]]:
    """Number of executions, and the first finding of each kind with how often it was met."""
    workers = [Worker(target, seed, first, jobs) for first in range(jobs)]
    kinds: dict[str, Any] = {}
    end = 0.0  # not before all have started
    while not end or time.monotonic() < end:
        time.sleep(0.2)
        if not end and (kinds or all(worker.now[1] for worker in workers)):
            end = time.monotonic() + seconds
        for found in (each for worker in workers for each in worker.findings()):
            kinds.setdefault(found["kind"], {**found, "count": 0})["count"] += 1
    total = sum(worker.executions for worker in workers)
    for worker in workers:
        worker.end()
    return total, kinds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--minutes", type=float, default=30, help="of all targets (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--target", action="append", choices=TARGETS, help="may be given again")
    parser.add_argument("--case", type=int, help="run this case of one target here")
    options = parser.parse_args()
    names = options.target or list(TARGETS)
    total, failed = 0, False
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        os.environ["EPIC_PL_CACHE"] = folder
        if options.case is not None:
            TARGETS[names[0]](Path(folder))(random.Random(f"{options.seed}/{options.case}"))
            return 0
        for name in names:
            seconds = 60 * options.minutes / len(names)
            count, kinds = fuzz(name, options.seed, seconds, options.jobs)
            print(f"{name}: {count:,} executions, {len(kinds)} findings", flush=True)
            total, failed = total + count, failed or bool(kinds)
            for kind, found in kinds.items():
                again = f"--target {name} --seed {options.seed} --case {found['case']}"
                print(f"  {kind}, {found['count']} times: {found['text']}")
                print(f"    python benchmarks/fuzz.py {again}", flush=True)
    print(f"{total:,} executions")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
