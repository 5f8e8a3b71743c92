"""Digests that identify images, texts and tokenizers."""

import hashlib
import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from epic_pl.utils.files import write_json


def image_digests(
    names: Iterable[tuple[str, str]], digest_file: Path
) -> dict[tuple[str, str], str]:
    """SHA-256 of the bytes of images.

    Args:
        names: (root, path) of each image.
        digest_file: JSON file that stores digests by path, size and time of change; it is replaced
            if it is damaged.
    """
    known: Any = {}
    with suppress(OSError, ValueError):  # the file does not exist yet, or is damaged
        known = json.loads(digest_file.read_text(encoding="utf-8"))
    known = known if isinstance(known, dict) else {}
    known = {state: digest for state, digest in known.items() if isinstance(digest, str)}
    digests, new = {}, {}
    for root, path in names:
        file = Path(root) / path
        stat = file.stat()
        state = f"{file} {stat.st_size} {stat.st_mtime_ns}"
        if state not in known:
            new[state] = hashlib.sha256(file.read_bytes()).hexdigest()
        digests[root, path] = new.get(state) or known[state]
    if new:
        with suppress(OSError):  # without write permission later runs read the images again
            write_json(digest_file, known | new)
    return digests


def tokenizer_digest(tokenizer: Any) -> str:
    """SHA-256 of everything that tokens depend on, but not the tokenizer's name or folder."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    state: dict[str, Any] = {"class": type(tokenizer).__name__, "words": tokenizer.get_vocab()}
    if backend is not None:
        # leave out truncation and padding of the last call; a store's key has them elsewhere
        state |= json.loads(backend.to_str()) | {"truncation": None, "padding": None}
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def text_digest(text: str) -> str:
    """SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()
