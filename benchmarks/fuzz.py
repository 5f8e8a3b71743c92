"""Feed damaged files and requests to every reader, guided by the code that they reach.

    python benchmarks/fuzz.py [--minutes 30] [--jobs 2] [--target tables]
    python benchmarks/fuzz.py --target tables --input runs/fuzz/tables-0   # again, in this process

Hypothesis describes the files: sound ones with bytes, words or values exchanged. Atheris, on
libFuzzer, searches among them for those that run new lines. Targets are tables, checkpoints,
feature stores, configs, and the server's requests with forms, JSON and images. A finding is any
exception but one of the package's own, a number of a store that differs from the sound one's, a
request that takes long or much memory, or spoils the next one, the death of a process, or a case of
more than a minute; its input is kept in runs/fuzz, and the search starts again. Exit code 1 if
there is any.
"""

import argparse
import asyncio
import atexit
import base64
import contextlib
import faulthandler
import functools
import io
import json
import logging
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

for _helpers in ("tests", "tests/features/store"):
    sys.path.append(str(Path(__file__).parents[1] / _helpers))

KEPT = Path("runs/fuzz")
INPUT = "input"  # the bytes that the case at work is drawn from
LIMIT_S = 60  # of a case; others may take the cores for long
REQUEST_S, REQUEST_BYTES = 2, 2**29  # processor time and memory of a request
_MEMORY = 16 * 2**30  # bytes of addresses: a size out of a file is refused, not tried
_LONGEST = 4096  # bytes that a case is drawn from

_WORDS = (
    b'null|[|]|{|}|{"a":|"|\'|,|:|\n|\r|\t|\0|NaN|-1|1e999|%s|\xff|\xef\xbb\xbf|\\ud83d|../|[/red]|'
    b"&a |*a|<<: |!!timestamp |!!bool |2024-99-99|? |- |--- "
)
_HTTP_WORDS = (
    b'--x|--x--|\r\n|\n|\r|: |; |=|"|\\|%%|%%ff|[|{|,|{"a":|1e999|%s|\\ud83d| |\0|\xff|_charset_|'
    b'; charset=punycode|; charset=utf-16|; boundary=|; filename="a"|name="a"|filename*0*=|'
    b"filename*=utf-8''%%ff|Content-Disposition: form-data|=?utf-8?q?|"
    b"Content-Transfer-Encoding: base64\r\n|Content-Transfer-Encoding: quoted-printable\r\n"
)
_DEPTHS = [0] * 50 + [1, 2, 100, 400]  # much is rare, for parsers take long
_HTTP_DEPTHS = [0] * 100 + [1, 2, 100, 400, 20_000, 500_000]
_ODD = (2**63, 10**15, "a\0b", "../../x", "[/red]", "x" * 5000)
_GONE = object()


def damaged(content: bytes, words: bytes = _WORDS, depths: Any = _DEPTHS) -> Any:
    """A few parts of a sound file removed, replaced or cut off, words or bytes put in."""
    size = st.sampled_from((0, 0, 1, 1, 1, 4, 64, len(content)))
    new = st.sampled_from((words % (b"9" * 30)).split(b"|")) | st.binary(max_size=16)
    change = st.tuples(st.integers(0, len(content)), size, new, st.sampled_from(depths))

    def apply(changes: list[tuple[int, int, bytes, int]]) -> bytes:
        data = bytearray(content)
        for at, removed, word, times in changes:
            data[at : at + removed] = word * max(1, times)
        return bytes(data)

    return st.lists(change, min_size=1, max_size=8).map(apply)


def changed(value: Any, *leaves: Any) -> Any:
    """A copy of nested dictionaries and lists with a few values replaced, removed or added."""
    plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    new = st.recursive(
        plain | st.sampled_from([*_ODD, _GONE, *leaves]),
        lambda each: st.lists(each, max_size=2) | st.dictionaries(st.text(max_size=3), each),
        max_leaves=4,
    )
    change = st.tuples(st.sampled_from(list(_places(value))), new, st.sampled_from(_DEPTHS))

    def apply(changes: list[tuple[tuple[Any, ...], Any, int]]) -> Any:
        root = {"": _copy(value)}
        for (*path, key), put, depth in changes:
            with contextlib.suppress(LookupError, TypeError):  # a place that is gone
                place = functools.reduce(lambda each, step: each[step], path, root)
                if put is _GONE:
                    del place[key]
                else:
                    place[key] = functools.reduce(lambda inner, _: [inner], range(depth), put)
        return root.get("")

    return st.lists(change, min_size=1, max_size=3).map(apply)


def _places(value: Any, path: tuple[Any, ...] = ("",)) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(value, dict):
        yield from ((*path, key) for key in ("class_path", "[/red]"))
    if isinstance(value, dict | list):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _places(each, (*path, key))


def _copy(value: Any) -> Any:
    """Of dictionaries and lists alone: their leaves, tensors among them, are not changed."""
    if isinstance(value, dict):
        return {key: _copy(each) for key, each in value.items()}
    return [_copy(each) for each in value] if isinstance(value, list) else value


def _dumps(value: Any) -> bytes:
    """JSON, or its own beginning where it is too deep for Python's writer."""
    try:
        return json.dumps(value, default=str).encode()
    except RecursionError:
        return b'{"text":' + b"[" * 30_000


def _written(write: Callable[[io.BytesIO], object]) -> bytes:
    file = io.BytesIO()
    with contextlib.suppress(RecursionError):  # too deep for a pickle
        write(file)
    return file.getvalue()


def tables(folder: Path) -> tuple[Any, Any]:
    """CSV, TSV, JSONL, JSON and Parquet files, read and built into rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from epic_pl.data.tables.build import build_rows
    from epic_pl.data.tables.columns import RowOptions
    from epic_pl.data.tables.formats import read_table

    rows = [
        {"text": f"text {n}", "label": "ab"[n % 2], "split": "train" if n < 6 else "val"}
        for n in range(8)
    ]
    heads = [list(rows[0]), *(list(row.values()) for row in rows)]
    nested = [row | {"tags": ["x", "y"], "more": {"a": n}} for n, row in enumerate(rows)]
    named = {"info": {"features": {"label": {"names": ["a", "b"], "_type": "ClassLabel"}}}}
    coded = pa.Table.from_pylist([row | {"label": n % 2} for n, row in enumerate(rows)])
    codes = pa.array(["a", "b"] * 4).dictionary_encode()
    parquet = (
        pa.Table.from_pylist(nested),
        pa.Table.from_pylist(rows).set_column(1, "label", codes),
        coded.replace_schema_metadata({"huggingface": json.dumps(named)}),
    )
    sound = [
        ("csv", "\n".join(map(",".join, heads)).encode()),
        ("csv", "\n".join(f'"{a}, ""x""";{b};{c}' for a, b, c in heads).encode()),
        ("tsv", "\n".join(map("\t".join, heads)).encode()),
        ("jsonl", b"\n".join(map(_dumps, nested))),
        ("json", _dumps(nested)),
        *(("parquet", _written(functools.partial(pq.write_table, each))) for each in parquet),
    ]
    options = RowOptions(image_column=None, split_column="split", val_size=1, test_size=0)

    def lines(values: Any) -> bytes:
        return b"\n".join(map(_dumps, values if isinstance(values, list) else [values]))

    def case(file: tuple[str, bytes]) -> None:
        path = folder / f"t.{file[0]}"
        path.write_bytes(file[1])
        table = read_table(path)
        table.to_pylist()
        build_rows(table, options)

    files = [st.tuples(st.just(suffix), damaged(content)) for suffix, content in sound]
    files += [
        st.tuples(st.just(suffix), changed(nested).map(write))
        for suffix, write in (("json", _dumps), ("jsonl", lines))
    ]
    return st.one_of(files), case


def checkpoints(folder: Path) -> tuple[Any, Any]:
    """Checkpoint files with sound check sums and without, read and loaded into a model."""
    import torch

    import tiny_encoders
    import tiny_runs
    from epic_pl.module.checkpoint_io import read_checkpoint

    vit, bert = (getattr(tiny_encoders, f"write_{n}")(folder / n) for n in ("vit", "bert"))
    module = tiny_runs.module(vit, bert, class_names=["a", "b", "c"])
    path = folder / "sound.ckpt"
    tiny_runs.save(module, path)
    content = torch.load(path, weights_only=True)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}

    def zipped(name: str, data: bytes) -> bytes:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for each, own in (parts | {name: data}).items():
                archive.writestr(each, own)
        return file.getvalue()

    def case(file: bytes) -> None:
        module.load_state_dict(module.checked_state(read_checkpoint(io.BytesIO(file))))

    names = [name for name in parts if name.endswith("data.pkl")] * 9 + list(parts)
    archives = [damaged(parts[name]).map(functools.partial(zipped, name)) for name in names]
    tensors = (torch.ones(0), torch.ones(2, 3).double(), torch.ones(1).to_sparse())
    saved = changed(content, *tensors).map(
        lambda value: _written(functools.partial(torch.save, value))
    )
    return damaged(path.read_bytes()) | st.one_of(archives) | saved, case


def stores(folder: Path) -> tuple[Any, Any]:
    """Feature stores: an item is read as it was stored, or encoded again."""
    from cache_items import Items
    from safetensors.torch import load, save

    from epic_pl.cli.commands.cache import info
    from epic_pl.features.store import shard
    from epic_pl.features.store.fill import StoreRequest, fill_stores
    from epic_pl.features.store.reader import FeatureStore
    from epic_pl.features.store.spec import SPEC, Field, StoreSpec

    options: dict[str, Any] = {"batch_size": 3, "shard_bytes": 1, "progress": False}
    sound, variants = [], []
    for number, dtype in enumerate(("float32", "float16", "bfloat16", "float16")):
        items = Items(6, ragged=number % 2 == 1)
        request = StoreRequest(items.spec(dtype, layers=[number]), items.hashes, items.produce)
        (store,) = fill_stores(folder / "sound", [request], **{**options, "shard_bytes": 2000})
        files = {path.name: path.read_bytes() for path in sorted(store.folder.glob("shard-*"))}
        expected = {name: store.gather(store.find([name])) for name in items.hashes}
        sound.append((request, files, expected))

    def reshaped(content: bytes, name: str, other: str, way: int) -> bytes:
        tensors = load(content)
        if name in tensors:
            tensor = tensors.pop(name)
            ways = (tensor[:1], tensor[None], tensor.flatten(), tensor.double(), tensor.flip(0))
            ways += (tensor.roll(1), tensor.neg() if tensor.is_floating_point() else tensor + 1)
            tensors[other] = ways[way].contiguous()
        return save(tensors)

    names = st.sampled_from(["memory", "pooled", "digests", "lengths", "checksums"])
    every = st.sampled_from([content for _, files, _ in sound for content in files.values()])
    for number, (request, files, _) in enumerate(sound):
        whole = st.sampled_from([*files.values()])
        bad = st.builds(reshaped, whole, names, names, st.integers(0, 6)) | every
        bad = st.one_of(*map(damaged, files.values()), bad)
        places = st.sampled_from([*files, "shard-0123456789abcdef.safetensors"])
        plain = request.spec.to_json()
        described = damaged(_dumps(plain)) | changed(plain).map(_dumps)
        shards = st.dictionaries(places, bad, min_size=1, max_size=2)
        variants += [
            st.tuples(st.just(number), described, st.just({})),
            st.tuples(st.just(number), st.just(_dumps(plain)), shards),
        ]

    def check(number: int, store: FeatureStore) -> None:
        for name, fields in sound[number][2].items():
            if (at := store.find([name])) >= 0:
                found = store.gather(at)
                assert all(found[key].equal(each) for key, each in fields.items()), (
                    f"{name} differs"
                )

    def folder_name(described: bytes) -> str:
        """The name that a changed spec would have, so that it is read to its end."""
        try:
            plain = json.loads(described)
            plain["fields"] = tuple(Field(**field) for field in plain["fields"])
            known = StoreSpec.__dataclass_fields__.keys() & plain.keys()
            key = StoreSpec(**{name: plain[name] for name in known}).key
            return f"{'image' if plain.get('modality') == 'image' else 'text'}-{key}"
        except Exception:
            return f"text-{'0' * 16}"

    def case(file: tuple[tuple[int, bytes, dict[str, bytes]], bool]) -> None:
        (number, described, changes), whole = file
        shard._SOUND.clear()  # as in another process
        place = folder / "changed"
        shutil.rmtree(place, ignore_errors=True)
        store = place / folder_name(described)
        store.mkdir(parents=True)
        for name, content in ({SPEC: described} | sound[number][1] | changes).items():
            (store / name).write_bytes(content)
        if whole:  # printing and filling take longer than all else
            with contextlib.redirect_stdout(io.StringIO()):
                info(place)
            (filled,) = fill_stores(place, [sound[number][0]], **options)
            assert min(filled.find(sound[number][0].hashes)) >= 0
            check(number, filled)
        check(number, FeatureStore(store))

    return st.tuples(st.one_of(variants), st.sampled_from([False] * 9 + [True])), case


def configs(folder: Path) -> tuple[Any, Any]:
    """YAML as a config, variants and a search space, and its values as a model's options."""
    import yaml

    from epic_pl.experiments.compare.plan import read_variants
    from epic_pl.experiments.tune.search import read_space
    from epic_pl.module.checkpoint_io import refuse_classes
    from epic_pl.module.config import EncodersConfig, OptimConfig, as_config
    from epic_pl.module.losses import CrossEntropy
    from epic_pl.nn.epic import EPIC
    from epic_pl.utils.config_files import read_yaml

    sections = {
        "encoders": (EncodersConfig, {"image": {"name": "a"}, "text": {"name": "b"}}),
        "method": (EPIC, {"num_prompts": 4, "prompt_attention": "joint"}),
        "optim": (OptimConfig, {"lr": 1e-3, "warmup": 0.1}),
        "loss": (CrossEntropy, {}),
    }

    def read_model(path: str) -> None:
        refuse_classes(Path(path).read_text("latin-1"), "x.ckpt")
        content = read_yaml(path)
        for name, (config, _) in sections.items():
            if isinstance(content, dict) and name in content:
                as_config(config, content[name])

    readers: dict[Callable[[str], Any], Any] = {
        read_model: {name: options for name, (_, options) in sections.items()},
        read_variants: {"wide": {"method": "EPIC", "model.method.hub_width": 32}},
        read_space: {"model.optim.lr": {"low": 1e-4, "high": 0.01, "log": True}, "x": [1, 2]},
    }

    def case(file: tuple[Callable[[str], Any], bytes]) -> None:
        (folder / "x.yaml").write_bytes(file[1])
        file[0](str(folder / "x.yaml"))

    files = [  # JSON is YAML
        st.tuples(
            st.just(read), changed(value).map(_dumps) | damaged(yaml.safe_dump(value).encode())
        )
        for read, value in readers.items()
    ]
    return st.one_of(files), case


def forms(folder: Path) -> tuple[Any, Any]:
    """Bodies for the server, in pieces, which answers each of them and afterwards a sound one."""
    from PIL import Image

    import tiny_encoders
    from epic_pl.data.decoding import FORMATS
    from epic_pl.data.processor import Processor
    from epic_pl.inference.item_classifier import ItemClassifier
    from epic_pl.inference.serving.server import Settings, build_app

    class Model(ItemClassifier[Any, Any]):
        """Reads images and texts as any model does, and has one label."""

        def __init__(self) -> None:
            folders = (getattr(tiny_encoders, f"write_{n}")(folder / n) for n in ("vit", "bert"))
            self.processor = Processor.from_encoders(*map(str, folders))

        def labels(self, scores: Any, top_k: int | None = None) -> Any:
            return [[{"label": "a", "score": 1.0}]] * scores

        def _score(self, batches: Any) -> Any:
            return sum(len(batch["input_ids"]) for batch in batches)

    def form(content: bytes) -> bytes:
        part = b"--x\r\nContent-Disposition: form-data; name="
        file = b'"image"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
        text = b'"text"\r\n\r\na red square\r\n' + part + b'"top_k"\r\n\r\n2\r\n--x--\r\n'
        return part + file + content + b"\r\n" + part + text

    def pair(content: bytes) -> dict[str, Any]:
        return {"image": base64.b64encode(content).decode(), "text": "a red square", "top_k": 2}

    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8))
    images = [
        _written(lambda file, kind=kind: noise.save(file, kind, exif=Image.Exif()))
        for kind in FORMATS
    ]
    spoiled = functools.partial(damaged, words=_HTTP_WORDS, depths=_HTTP_DEPTHS)
    files, sound = st.one_of(*map(damaged, images)), pair(images[1])
    roads = [
        ("/classify-form", b"multipart/form-data; boundary=x", each)
        for each in (spoiled(form(images[1])), spoiled(form(b"a")), files.map(form))
    ]
    roads += [
        ("/classify", b"application/json", each)
        for each in (
            spoiled(_dumps(sound)),
            changed(sound).map(_dumps),
            files.map(pair).map(_dumps),
        )
    ]
    requests = [
        st.tuples(
            st.just(path),
            # others would be refused before their bodies are read
            st.one_of(st.just(kind), st.just(kind), spoiled(kind)),
            body,
            st.sampled_from([2**20, 2**20, 2**20, 1000, 7, 1]),
            st.sampled_from([False] * 9 + [True]),
        )
        for path, kind, body in roads
    ]
    errors: list[BaseException] = []

    class Raised(logging.Handler):
        """Keeps exceptions that are logged, as those behind each status 500 are."""

        def emit(self, record: logging.LogRecord) -> None:
            if record.exc_info and record.exc_info[1]:
                errors.append(record.exc_info[1])

    with ThreadPoolExecutor(1) as thread:
        model = thread.submit(Model).result()
    runner, handler = asyncio.Runner(), Raised()
    atexit.register(runner.close)
    app = build_app(model, Settings(batch=4), errors.append, ThreadPoolExecutor(1))
    runner.run(app.router.lifespan_context(app).__aenter__())

    async def respond(path: str, kind: bytes, body: bytes, piece: int, lost: bool) -> list[int]:
        """Status of the response to a body in pieces, after which the connection may be lost."""
        piece, statuses = max(piece, len(body) // 1000), []
        pieces = [body[at : at + piece] for at in range(0, len(body), piece)] or [b""]
        messages = [{"type": "http.request", "body": each, "more_body": True} for each in pieces]
        messages[-1]["more_body"] = lost

        async def receive() -> Any:
            await asyncio.sleep(0)
            if not messages and not lost:
                await asyncio.Event().wait()
            return messages.pop(0) if messages else {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            statuses.extend([message["status"]] if "status" in message else [])

        scope = {"type": "http", "method": "POST", "path": path, "headers": [(b"host", b"a")]}
        scope |= {"query_string": b"", "http_version": "1.1", "scheme": "http", "root_path": ""}
        scope["headers"].append((b"content-type", kind.translate(None, b"\r\n\0")))
        await app(scope, receive, send)
        return statuses

    def memory() -> int:
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def case(sent: tuple[str, bytes, bytes, int, bool]) -> None:
        errors.clear()
        logging.getLogger().addHandler(handler)
        before, began = memory(), time.process_time()
        try:
            statuses = runner.run(respond(*sent))
            seconds, added = time.process_time() - began, memory() - before
            again = ("/classify", b"application/json", b'{"text": "a"}', 2**16, False)
            afterwards = runner.run(respond(*again))
        finally:
            logging.getLogger().removeHandler(handler)
        if errors:
            raise errors[0]
        assert 500 not in statuses, statuses
        assert afterwards == [200], afterwards
        assert seconds < REQUEST_S, f"{seconds:.1f} s"
        assert added < REQUEST_BYTES, f"{added / 2**20:.0f} MiB"

    return st.one_of(requests), case


TARGETS: dict[str, Callable[[Path], tuple[Any, Any]]] = {
    each.__name__: each for each in (tables, checkpoints, stores, configs, forms)
}


def property_of(target: str, folder: Path, examples: int = 100, count: Any = None) -> Any:
    """A Hypothesis test: each file of a target is read, or refused with an error of the package.

    ``count``, an array of one number, is raised by one for each file.
    """
    files, case = TARGETS[target](folder)
    from jsonargparse import ArgumentError

    from epic_pl.utils.errors import EpicError

    fixed = {"database": None, "deadline": None, "derandomize": True}

    @settings(max_examples=examples, suppress_health_check=list(HealthCheck), **fixed)
    @given(files)
    def test(file: Any) -> None:
        if count is not None:
            count[0] += 1
        with contextlib.suppress(EpicError, ArgumentError):
            case(file)

    return test


def search(target: str, folder: Path, options: list[str]) -> None:
    """Search with libFuzzer in this process, which its first finding ends."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")
    import atheris
    import torch

    torch.set_num_threads(1)
    count = np.memmap(folder / "count", np.int64, shape=1)
    with atheris.instrument_imports(include=["epic_pl", "python_multipart", "starlette"]):
        test = property_of(target, folder, count=count)

    def one(data: bytes) -> None:
        (folder / INPUT).write_bytes(data)
        faulthandler.dump_traceback_later(LIMIT_S, exit=True)
        test.hypothesis.fuzz_one_input(data)

    atheris.Setup([sys.argv[0], *options], one)
    atheris.Fuzz()


def repeat(target: str, folder: Path, seed: int, end: float) -> tuple[int, list[str]]:
    """Start searches until the time is over: number of files, and the last words of each."""
    found: list[str] = []
    corpus, draws = folder / "corpus", np.random.default_rng(seed)
    corpus.mkdir(parents=True)
    np.zeros(1, np.int64).tofile(folder / "count")
    for number in range(20):
        (corpus / f"{number}").write_bytes(draws.bytes(_LONGEST // 4))
    while (left := round(end - time.monotonic())) > 0:
        # a timeout of 0 is one second; `one` has a limit of its own
        options = f"-max_total_time={left} -seed={seed + len(found) + 1} -timeout={10 * LIMIT_S} "
        options += f"-max_len={_LONGEST} -len_control=0 -rss_limit_mb=0 -artifact_prefix={folder}/"
        command = [sys.executable, __file__, "--search", target, str(folder), *options.split()]
        command.append(str(corpus))
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        if done.returncode:
            kept = KEPT / f"{target}-{seed + len(found)}"
            shutil.copy(folder / INPUT, kept)
            words = _last_words(done.stdout + done.stderr)
            found.append(f"exit code {done.returncode}, input {kept}\n{words}")
    return int(np.fromfile(folder / "count", np.int64)[0]), found


def _last_words(output: str) -> str:
    """The traceback of a finding, or the last lines where there is none."""
    parts = re.split(r"=== Uncaught Python exception: ===\n|(?=Timeout \()", output)
    lines = parts[-1].split("\n==", 1)[0].splitlines()
    # the place comes first in the traceback of a hang, last in that of an exception
    return "\n".join([*lines[:12], *lines[12:][-12:]])


def main() -> int:
    if sys.argv[1:2] == ["--search"]:
        search(sys.argv[2], Path(sys.argv[3]), sys.argv[4:])
        return 0
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--minutes", type=float, default=30, help="of all targets (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--target", action="append", choices=TARGETS, help="may be given again")
    parser.add_argument("--input", type=Path, help="a kept input of one target, read here")
    options = parser.parse_args()
    names = options.target or list(TARGETS)
    KEPT.mkdir(parents=True, exist_ok=True)
    counts, failed = [], False
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        os.environ["EPIC_PL_CACHE"] = folder
        if options.input:
            test = property_of(names[0], Path(folder))
            test.hypothesis.fuzz_one_input(options.input.read_bytes())
            return 0
        for name in names:
            end = time.monotonic() + 60 * options.minutes / len(names)
            seeds = [1000 * (options.seed + job) for job in range(options.jobs)]
            places = [Path(folder, f"{name}-{seed}") for seed in seeds]
            with ThreadPoolExecutor(options.jobs) as pool:
                done = list(pool.map(functools.partial(repeat, name, end=end), places, seeds))
            found = [each for _, words in done for each in words]
            counts.append(sum(count for count, _ in done))
            print(f"{name}: {counts[-1]:,} executions, {len(found)} findings", flush=True)
            print("".join(f"{each}\n" for each in dict.fromkeys(found)), end="", flush=True)
            failed = failed or bool(found)
    print(f"{sum(counts):,} executions")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
