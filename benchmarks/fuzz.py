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

sys.path.append(str(Path(__file__).parents[1] / "tests"))

KEPT = Path("runs/fuzz")
INPUT = "input"  # the bytes that the case at work is drawn from
LIMIT_S = 60  # of a case; others may take the cores for long
REQUEST_S, REQUEST_BYTES = 2, 2**29  # processor time and memory of a request
_MEMORY = 16 * 2**30  # bytes of addresses: a size out of a file is refused, not tried
_LONGEST = 4096  # bytes that a case is drawn from

# ------------------------------------------------------------------ damage

_WORDS = st.sampled_from(
    [
        *(b"null", b"[", b"]", b"{", b"}", b'{"a":', b'"', b"'", b",", b":", b"\n", b"\r", b"\t"),
        *(b"\0", b"NaN", b"-1", b"1e999", b"9" * 30, b"\xff", b"\xef\xbb\xbf", b"\\ud83d", b"../"),
        *(b"[/red]", b"&a ", b"*a", b"<<: ", b"!!timestamp ", b"!!bool ", b"2024-99-99", b"? "),
        *(b"- ", b"--- "),
    ]
)
_LEAVES = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    st.sampled_from([2**63, 10**15, "a\0b", "../../x", "[/red]", "x" * 5000]),
)
_DEPTHS = st.sampled_from([0] * 50 + [1, 2, 100, 400])  # much is rare, for parsers take long
_HTTP_DEPTHS = st.sampled_from([0] * 100 + [1, 2, 100, 400, 20_000, 500_000])
_HTTP_WORDS = st.sampled_from(
    [
        *(b"--x", b"--x--", b"\r\n", b"\n", b"\r", b": ", b"; ", b"=", b'"', b"\\", b"%", b"%ff"),
        *(
            b"; charset=punycode",
            b"; charset=utf-16",
            b"; boundary=",
            b'; filename="a"',
            b'name="a"',
        ),
        *(
            b"filename*=utf-8''%ff",
            b"filename*0*=",
            b"Content-Disposition: form-data",
            b"=?utf-8?q?",
        ),
        *(
            b"Content-Transfer-Encoding: base64\r\n",
            b"Content-Transfer-Encoding: quoted-printable\r\n",
        ),
        *(
            b"Content-Length: 1\r\n",
            b"Transfer-Encoding: chunked\r\n",
            b"Content-Encoding: gzip\r\n",
        ),
        *(
            b"Expect: 100-continue\r\n",
            b"Connection: upgrade\r\nUpgrade: websocket\r\n",
            b"0\r\n\r\n",
        ),
        *(
            b"[",
            b"{",
            b",",
            b'{"a":',
            b"1e999",
            b"9" * 16,
            b"\\ud83d",
            b" ",
            b"\0",
            b"\xff",
            b"_charset_",
        ),
    ]
)
_GONE = object()


def damaged(content: bytes, words: Any = _WORDS, depths: Any = _DEPTHS) -> st.SearchStrategy[bytes]:
    """A few parts of a sound file removed, replaced or cut off, words or bytes put in."""
    size = st.sampled_from((0, 0, 1, 1, 1, 4, 64, len(content)))
    new = st.one_of(words, st.binary(max_size=16))
    change = st.tuples(st.integers(0, len(content)), size, new, depths)

    def apply(changes: list[tuple[int, int, bytes, int]]) -> bytes:
        data = bytearray(content)
        for at, removed, words, times in changes:
            data[at : at + removed] = words * max(1, times)
        return bytes(data)

    return st.lists(change, min_size=1, max_size=8).map(apply)


def changed(value: Any, *leaves: Any) -> st.SearchStrategy[Any]:
    """A copy of nested dictionaries and lists with a few values replaced, removed or added."""
    new = st.recursive(
        st.one_of(_LEAVES, st.sampled_from([_GONE, *leaves])),
        lambda each: st.lists(each, max_size=2) | st.dictionaries(st.text(max_size=3), each),
        max_leaves=4,
    )
    change = st.tuples(st.sampled_from(list(_places(value))), new, _DEPTHS)

    def apply(changes: list[tuple[tuple[Any, ...], Any, int]]) -> Any:
        root = {"": _copy(value)}
        for (*path, key), put, depth in changes:
            place: Any = root
            with contextlib.suppress(LookupError, TypeError):  # a place that is gone
                for step in path:
                    place = place[step]
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


def _dumps(value: Any) -> str:
    """JSON, or its own beginning where it is too deep for Python's writer."""
    try:
        return json.dumps(value, default=str)
    except RecursionError:
        return '{"text":' + "[" * 30_000


# ------------------------------------------------------------------ targets

Case = Callable[[Any], None]


def tables(folder: Path) -> tuple[Any, Case]:
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

    def parquet(table: pa.Table) -> bytes:
        sink = io.BytesIO()
        pq.write_table(table, sink)
        return sink.getvalue()

    sound = [
        ("csv", "\n".join(map(",".join, heads)).encode()),
        ("csv", "\n".join(f'"{a}, ""x""";{b};{c}' for a, b, c in heads).encode()),
        ("tsv", "\n".join(map("\t".join, heads)).encode()),
        ("jsonl", "\n".join(map(json.dumps, nested)).encode()),
        ("json", json.dumps(nested).encode()),
        ("parquet", parquet(pa.Table.from_pylist(nested))),
        ("parquet", parquet(pa.Table.from_pylist(rows).set_column(1, "label", codes))),
        ("parquet", parquet(coded.replace_schema_metadata({"huggingface": json.dumps(named)}))),
    ]
    options = RowOptions(image_column=None, split_column="split", val_size=1, test_size=0)

    def lines(values: Any) -> bytes:
        values = values if isinstance(values, list) else [values]
        return "\n".join(map(_dumps, values)).encode()

    files = st.one_of(
        *(st.tuples(st.just(suffix), damaged(content)) for suffix, content in sound),
        st.tuples(st.just("json"), changed(nested).map(lambda value: _dumps(value).encode())),
        st.tuples(st.just("jsonl"), changed(nested).map(lines)),
    )

    def case(file: tuple[str, bytes]) -> None:
        path = folder / f"t.{file[0]}"
        path.write_bytes(file[1])
        table = read_table(path)
        table.to_pylist()
        build_rows(table, options)

    return files, case


def checkpoints(folder: Path) -> tuple[Any, Case]:
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

    def zipped(part: tuple[str, bytes]) -> bytes:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for name, data in (parts | {part[0]: part[1]}).items():
                archive.writestr(name, data)
        return file.getvalue()

    def saved(value: Any) -> bytes:
        file = io.BytesIO()
        with contextlib.suppress(RecursionError):  # too deep for a pickle
            torch.save(value, file)
        return file.getvalue()

    names = [name for name in parts if name.endswith("data.pkl")] * 9 + list(parts)
    part = st.sampled_from(names).flatmap(
        lambda name: st.tuples(st.just(name), damaged(parts[name]))
    )
    tensors = (torch.ones(0), torch.ones(2, 3).double(), torch.ones(1).to_sparse())
    files = st.one_of(
        damaged(path.read_bytes()), part.map(zipped), changed(content, *tensors).map(saved)
    )

    def case(file: bytes) -> None:
        module.load_state_dict(module.checked_state(read_checkpoint(io.BytesIO(file))))

    return files, case


def stores(folder: Path) -> tuple[Any, Case]:
    """Feature stores: an item is read as it was stored, or encoded again."""
    import torch
    from safetensors.torch import load, save

    from epic_pl.cli.commands.cache import info
    from epic_pl.features.store import shard
    from epic_pl.features.store.fill import StoreRequest, fill_stores
    from epic_pl.features.store.reader import FeatureStore
    from epic_pl.features.store.spec import SPEC, Field, StoreSpec

    hashes = [f"item-{n}" for n in range(6)]
    lengths = torch.tensor([2, 1, 4, 3, 4, 2])
    fields = (Field("memory", (2, 4, 8), 1), Field("pooled", (9,)))
    options: dict[str, Any] = {"batch_size": 3, "shard_bytes": 1, "progress": False}
    variants: list[st.SearchStrategy[tuple[int, str, dict[str, bytes]]]] = []
    requests, contents, expected = [], [], []
    for number, dtype in enumerate(("float32", "float16", "bfloat16", "float16")):
        modality = "text" if number % 2 else "image"
        spec = StoreSpec(modality, {"layers": [number]}, fields, dtype, "tiny")

        def produce(at: Any, number: int = number) -> Any:
            count = int(lengths[at].max()) if number % 2 else 4
            draws = torch.Generator().manual_seed(number)
            memory = torch.randn(6, 2, 4, 8, generator=draws)[at, :, :count]
            pooled = torch.randn(6, 9, generator=draws)[at]
            return {"memory": memory, "pooled": pooled}, lengths[at] if number % 2 else None

        requests.append(StoreRequest(spec, hashes, produce))
        (store,) = fill_stores(folder / "sound", requests[-1:], **{**options, "shard_bytes": 2000})
        files = {path.name: path.read_bytes() for path in sorted(store.folder.glob("shard-*"))}
        contents.append(files)
        expected.append(store.gather(store.find(hashes)))

    def reshaped(choice: tuple[bytes, str, str, int]) -> bytes:
        tensors = load(choice[0])
        if choice[1] in tensors:
            tensor = tensors.pop(choice[1])
            ways = (tensor[:1], tensor[None], tensor.flatten(), tensor.double(), tensor.flip(0))
            ways += (tensor.roll(1), tensor.neg() if tensor.is_floating_point() else tensor + 1)
            if choice[3] < len(ways):
                tensors[choice[2]] = ways[choice[3]].contiguous()
        return save(tensors)

    tensor_names = st.sampled_from(["memory", "pooled", "digests", "lengths", "checksums"])
    every = st.sampled_from([content for files in contents for content in files.values()])
    for number, files in enumerate(contents):
        plain = requests[number].spec.to_json()
        one = st.sampled_from(sorted(files))
        ways = (tensor_names, tensor_names, st.integers(0, 7))
        bad = (
            one.flatmap(lambda name, files=files: damaged(files[name]))
            | st.tuples(st.sampled_from([*files.values()]), *ways).map(reshaped)
            | every
        )
        copy = st.just("shard-0123456789abcdef.safetensors")
        changed_files = st.dictionaries(one | copy, bad, min_size=1, max_size=2)
        text = damaged(json.dumps(plain).encode()).map(lambda data: data.decode("latin-1"))
        variants += [
            st.tuples(st.just(number), text | changed(plain).map(_dumps), st.just({})),
            st.tuples(st.just(number), st.just(json.dumps(plain)), changed_files),
        ]

    def check(number: int, store: FeatureStore, names: list[str]) -> None:
        at = torch.tensor([hashes.index(name) for name in names])
        given = store.gather(store.find(names))
        for name, tensor in given.items():
            wanted = expected[number][name][at]
            if name != "pooled" and number % 2:  # padded to the longest of the batch
                wanted = wanted.narrow(2 if name == "memory" else 1, 0, given["mask"].shape[1])
            assert torch.equal(tensor, wanted), f"{name} differs"

    def case(file: tuple[tuple[int, str, dict[str, bytes]], bool]) -> None:
        (number, described, changes), whole = file
        shard._SOUND.clear()  # as in another process
        place = folder / "changed"
        shutil.rmtree(place, ignore_errors=True)
        store = place / _folder_name(described)
        store.mkdir(parents=True)
        (store / SPEC).write_bytes(described.encode("utf-8", "surrogatepass"))
        for name, content in (contents[number] | changes).items():
            (store / name).write_bytes(content)
        if whole:  # printing and filling take longer than all else
            with contextlib.redirect_stdout(io.StringIO()):
                info(place)
            (filled,) = fill_stores(place, [requests[number]], **options)
            check(number, filled, hashes)
        opened = FeatureStore(store)
        if found := [name for name in hashes if opened.find([name]) >= 0]:
            check(number, opened, found)

    return st.tuples(st.one_of(variants), st.sampled_from([False] * 9 + [True])), case


def _folder_name(described: str) -> str:
    """The name that a changed spec would have, so that it is read to its end."""
    import dataclasses

    from epic_pl.features.store.spec import Field, StoreSpec

    try:
        plain = json.loads(described)
        plain.pop("version")
        known = {field.name for field in dataclasses.fields(StoreSpec)} & set(plain)
        plain["fields"] = tuple(Field(**field) for field in plain["fields"])
        key = StoreSpec(**{name: plain[name] for name in known}).key
        modality = "image" if plain.get("modality") == "image" else "text"
    except Exception:
        modality, key = "text", "0" * 16
    return f"{modality}-{key}"


def configs(folder: Path) -> tuple[Any, Case]:
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
    path = folder / "x.yaml"
    files = [
        st.tuples(
            st.just(read),
            changed(value).map(lambda value: _dumps(value).encode())  # JSON is YAML
            | damaged(yaml.safe_dump(value).encode()),
        )
        for read, value in readers.items()
    ]

    def case(file: tuple[Callable[[str], Any], bytes]) -> None:
        path.write_bytes(file[1])
        file[0](str(path))

    return st.one_of(files), case


def forms(folder: Path) -> tuple[Any, Case]:
    """Requests to the server, which answers each of them and afterwards a sound one."""
    import uvicorn
    from PIL import Image
    from uvicorn.server import ServerState

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

    def image(kind: str) -> bytes:
        file = io.BytesIO()
        noise = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
        Image.fromarray(noise).save(file, kind, exif=Image.Exif())
        return file.getvalue()

    def form(content: bytes) -> bytes:
        part = b"--x\r\nContent-Disposition: form-data; name="
        file = b'"image"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
        text = b'"text"\r\n\r\na red square\r\n' + part + b'"top_k"\r\n\r\n2\r\n--x--\r\n'
        return part + file + content + b"\r\n" + part + text

    def pair(content: bytes) -> dict[str, Any]:
        return {"image": base64.b64encode(content).decode(), "text": "a red square", "top_k": 2}

    def request(path: str, kind: bytes, body: bytes, chunk: int = 0) -> bytes:
        head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: ".encode() + kind
        if not chunk:
            return head + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        parts = (body[at : at + chunk] for at in range(0, min(len(body), 1000 * chunk), chunk))
        lines = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
        return head + b"\r\nTransfer-Encoding: chunked\r\n\r\n" + lines + b"0\r\n\r\n"

    def spoiled(content: bytes) -> st.SearchStrategy[bytes]:
        return damaged(content, _HTTP_WORDS, _HTTP_DEPTHS)

    images = [image(kind) for kind in FORMATS]
    files = st.one_of(*map(damaged, images))
    json_kind, form_kind = b"application/json", b"multipart/form-data; boundary=x"
    chunks = st.sampled_from([0, 0, 0, 1, 7, 1000])
    form_bodies = (spoiled(form(images[1])), spoiled(form(b"a")), files.map(form))
    json_bodies = (
        spoiled(json.dumps(pair(images[1])).encode()),
        changed(pair(images[1])).map(lambda value: _dumps(value).encode()),
        files.map(lambda content: json.dumps(pair(content)).encode()),
    )
    roads = [("/classify-form", form_kind, form_bodies), ("/classify", json_kind, json_bodies)]
    requests = []
    for path, kind, bodies in roads:
        # others would be refused before their bodies are read
        bad = spoiled(kind).map(lambda value: value.translate(None, b"\r\n\0"))
        kinds = st.one_of(st.just(kind), st.just(kind), bad)
        requests += [st.builds(request, st.just(path), kinds, each, chunks) for each in bodies]
        requests.append(
            chunks.flatmap(
                lambda chunk, of=(path, kind): spoiled(
                    request(*of, form(images[1]) if "form" in of[0] else b'{"text": "a"}', chunk)
                )
            )
        )

    class Connection(asyncio.Transport):
        """Keeps what the server writes."""

        def __init__(self) -> None:
            super().__init__()
            self.written, self.closed = b"", False

        def write(self, data: Any) -> None:
            self.written += data

        def close(self) -> None:
            self.closed = True

        def is_closing(self) -> bool:
            return self.closed

        def pause_reading(self) -> None:
            pass

        def resume_reading(self) -> None:
            pass

    class Raised(logging.Handler):
        """Keeps exceptions that are logged, as those behind each status 500 are."""

        def __init__(self) -> None:
            super().__init__()
            self.errors: list[BaseException] = []

        def emit(self, record: logging.LogRecord) -> None:
            if record.exc_info and record.exc_info[1]:
                self.errors.append(record.exc_info[1])

    with ThreadPoolExecutor(1) as thread:
        model = thread.submit(Model).result()
    raised, runner = Raised(), asyncio.Runner()
    atexit.register(runner.close)
    app = build_app(model, Settings(batch=4), raised.errors.append, ThreadPoolExecutor(1))
    config = uvicorn.Config(app, http="httptools", ws="none", log_config=None)
    config.load()
    runner.run(app.router.lifespan_context(app).__aenter__())

    async def respond(content: bytes, piece: int) -> list[bytes]:
        """Statuses of the requests that a connection sends before it is lost."""
        state, connection = ServerState(), Connection()
        protocol: Any = config.http_protocol_class(config, state, {})  # type: ignore[call-arg]
        protocol.connection_made(connection)
        for at in range(0, len(content), piece):
            if connection.closed:
                break
            protocol.data_received(content[at : at + piece])
            await asyncio.sleep(0)
        while state.tasks:
            if protocol.cycle.more_body:
                protocol.connection_lost(None)
            await asyncio.wait(state.tasks)
        protocol.connection_lost(None)
        return re.findall(rb"^HTTP/1\.1 (\d+) ", connection.written, re.M)

    sound = request("/classify", json_kind, b'{"text": "a"}')

    def case(sent: tuple[bytes, int]) -> None:
        content, piece = sent
        raised.errors.clear()
        logging.getLogger().addHandler(raised)
        memory, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        try:
            statuses = runner.run(respond(content, max(piece, len(content) // 1000)))
            seconds = time.process_time() - began
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
            afterwards = runner.run(respond(sound, 2**16))
        finally:
            logging.getLogger().removeHandler(raised)
        for error in raised.errors:
            raise error
        assert b"500" not in statuses, statuses
        assert afterwards == [b"200"], afterwards
        assert seconds < REQUEST_S, f"{seconds:.1f} s"
        assert 1024 * memory < REQUEST_BYTES, f"{memory / 1024:.0f} MiB"

    return st.tuples(st.one_of(requests), st.sampled_from([2**16, 2**16, 100, 1])), case


TARGETS: dict[str, Callable[[Path], tuple[Any, Case]]] = {
    each.__name__: each for each in (tables, checkpoints, stores, configs, forms)
}


def property_of(
    target: str, folder: Path, examples: int = 100, count: Any = None
) -> Callable[[], None]:
    """A Hypothesis test: each file of a target is read, or refused with an error of the package.

    ``count``, an array of one number, is raised by one for each file.
    """
    files, case = TARGETS[target](folder)
    from jsonargparse import ArgumentError

    from epic_pl.utils.errors import EpicError

    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(files)
    def test(file: Any) -> None:
        if count is not None:
            count[0] += 1
        with contextlib.suppress(EpicError, ArgumentError):
            case(file)

    return test


# ------------------------------------------------------------------ processes


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
        test: Any = property_of(target, folder, count=count)

    def one(data: bytes) -> None:
        (folder / INPUT).write_bytes(data)
        faulthandler.dump_traceback_later(LIMIT_S, exit=True)
        test.hypothesis.fuzz_one_input(data)

    atheris.Setup([sys.argv[0], *options], one)
    atheris.Fuzz()


def repeat(target: str, folder: Path, seed: int, end: float) -> tuple[int, list[str]]:
    """Start searches until the time is over: number of files, and the last words of each."""
    found: list[str] = []
    np.zeros(1, np.int64).tofile(folder / "count")
    corpus = folder / "corpus"
    corpus.mkdir()
    draws = np.random.default_rng(seed)
    for number in range(20):
        (corpus / f"{number}").write_bytes(draws.bytes(_LONGEST // 4))
    while (left := round(end - time.monotonic())) > 0:
        options = [f"-max_total_time={left}", f"-seed={seed + len(found) + 1}"]
        options += [f"-timeout={10 * LIMIT_S}"]  # 0 is one second; `one` has a limit of its own
        options += [f"-max_len={_LONGEST}", "-len_control=0", "-rss_limit_mb=0"]
        options += [f"-artifact_prefix={folder}/"]
        command = [sys.executable, __file__, "--search", target, str(folder), *options, str(corpus)]
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


def fuzz(target: str, seed: int, seconds: float, jobs: int, folder: Path) -> tuple[int, list[str]]:
    """Number of files, and what was found, in ``jobs`` processes at a time."""
    places = [folder / f"{target}-{job}" for job in range(jobs)]
    for place in places:
        place.mkdir()
    end = time.monotonic() + seconds
    with ThreadPoolExecutor(jobs) as pool:
        starts = range(1000 * seed, 1000 * (seed + jobs), 1000)
        done = list(pool.map(functools.partial(repeat, target, end=end), places, starts))
    return sum(count for count, _ in done), [each for _, found in done for each in found]


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
    total, failed = 0, False
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        os.environ["EPIC_PL_CACHE"] = folder
        if options.input:
            test: Any = property_of(names[0], Path(folder))
            test.hypothesis.fuzz_one_input(options.input.read_bytes())
            return 0
        for name in names:
            seconds = 60 * options.minutes / len(names)
            count, found = fuzz(name, options.seed, seconds, options.jobs, Path(folder))
            print(f"{name}: {count:,} executions, {len(found)} findings", flush=True)
            print("".join(f"{each}\n" for each in dict.fromkeys(found)), end="", flush=True)
            total, failed = total + count, failed or bool(found)
    print(f"{total:,} executions")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
