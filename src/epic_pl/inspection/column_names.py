"""Roles that the names of columns suggest."""

import re
from collections.abc import Iterable

_PICTURE = ("image", "img", "picture", "photo")
_NAMES = {
    "image": (*_PICTURE, "file_name", "filename", "file", "path"),
    "text": ("text", "title", "caption", "sentence", "description", "hypothesis", "question"),
    "label": ("label", "labels", "class", "category", "target", "genre", "genres", "tags"),
    "split": ("split", "set", "subset", "partition", "fold"),
    "id": ("id", "sample_id", "uid", "key", "index"),
}


def by_name(names: Iterable[str], role: str) -> list[str]:
    """Columns named like a role, the clearest name first.

    ``label`` comes before ``label_source``. Cells of picture columns are examined as well, so
    there ``image_path`` comes before ``path``.
    """
    known, ranks = _NAMES[role], {}
    for index, name in enumerate(names):
        matches = [known.index(word) for word in _words(name) if word in known]
        if matches:
            inexact = role != "image" and name.lower() not in known
            ranks[name] = (inexact, min(matches), index)
    return sorted(ranks, key=lambda name: ranks[name])


def is_named_picture(name: str) -> bool:
    """Whether a name says picture, and nothing else but that it is a file: ``image_path``."""
    parts = _words(name) - {name.lower()} or {name.lower()}
    return bool(parts & set(_PICTURE)) and parts <= set(_NAMES["image"])


def _words(name: str) -> set[str]:
    """Parts of a name and the whole: image, path and image_path of ``imagePath``."""
    whole = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
    return {whole, *re.split(r"[^a-z0-9]+", whole)}
