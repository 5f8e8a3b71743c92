"""Digests by which images, texts and tokenizers are identified."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any


class ImageDigests:
    """SHA-256 of images' bytes, remembered by path, size and time of change.

    Args:
        memory: JSON file in which they are remembered; replaced if it is damaged.
    """

    def __init__(self, memory: Path) -> None:
        self._memory = memory
        self._known: dict[str, list[Any]] = {}
        self._changed = False
        with contextlib.suppress(OSError, ValueError, AttributeError):  # nothing remembered yet
            entries = json.loads(memory.read_text(encoding="utf-8")).items()
            self._known = {k: v for k, v in entries if isinstance(v, list) and len(v) == 3}

    def __call__(self, names: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
        """(Root, path) to digest; an image inside one big file goes by that file and its name."""
        digests = {name: self.one(*name) for name in names}
        self._save()
        return digests

    def one(self, root: str, path: str) -> str:
        """The digest of one image, not yet remembered for later runs."""
        inside = os.path.isfile(root)
        file = Path(root) if inside else Path(root) / path
        stat = file.stat()
        key, state = f"{file}\0{path}", [stat.st_size, stat.st_mtime_ns]
        entry = self._known.get(key)
        if entry is None or entry[:2] != state:
            content = f"{state}{path}".encode() if inside else file.read_bytes()
            self._known[key] = entry = [*state, hashlib.sha256(content).hexdigest()]
            self._changed = True
        digest: str = entry[2]
        return digest

    def _save(self) -> None:
        if not self._changed:
            return
        # without write permission later runs read the images again, no more
        with contextlib.suppress(OSError):
            self._memory.parent.mkdir(parents=True, exist_ok=True)
            temporary = self._memory.with_suffix(f".{os.getpid()}.tmp")
            temporary.write_text(json.dumps(self._known), encoding="utf-8")
            temporary.replace(self._memory)
        self._changed = False


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
