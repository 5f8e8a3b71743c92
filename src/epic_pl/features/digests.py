"""Digests by which images, texts and tokenizers are identified."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def image_digests(names: Iterable[tuple[str, str]], memory: Path) -> dict[tuple[str, str], str]:
    """SHA-256 of images' bytes.

    Args:
        names: (root, path) of each image.
        memory: JSON file that remembers digests by path, size and time of change; replaced if it
            is damaged.
    """
    known: dict[str, list[Any]] = {}
    with contextlib.suppress(OSError, ValueError, AttributeError):  # nothing remembered yet
        entries = json.loads(memory.read_text(encoding="utf-8")).items()
        known = {k: v for k, v in entries if isinstance(v, list) and len(v) == 3}
    digests, changed = {}, False
    for root, path in names:
        file = Path(root) / path
        stat = file.stat()
        key, state = str(file), [stat.st_size, stat.st_mtime_ns]
        if known.get(key, [])[:2] != state:
            known[key] = [*state, hashlib.sha256(file.read_bytes()).hexdigest()]
            changed = True
        digests[root, path] = known[key][2]
    if changed:
        # without write permission later runs read the images again, no more
        with contextlib.suppress(OSError):
            memory.parent.mkdir(parents=True, exist_ok=True)
            temporary = memory.with_suffix(f".{os.getpid()}.tmp")
            temporary.write_text(json.dumps(known), encoding="utf-8")
            temporary.replace(memory)
    return digests


def tokenizer_digest(tokenizer: Any) -> str:
    """SHA-256 of everything that tokens depend on, whatever the tokenizer's name or folder."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    state: dict[str, Any] = {"class": type(tokenizer).__name__, "words": tokenizer.get_vocab()}
    if backend is not None:
        # truncation and padding are left from the last call, and part of the key by themselves
        state |= json.loads(backend.to_str()) | {"truncation": None, "padding": None}
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def text_digest(text: str) -> str:
    """SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()
