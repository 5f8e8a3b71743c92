"""What a column's name says of what is in it."""

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
    """Columns that are called like a role, the clearest name first.

    ``label`` comes before ``label_source``; of pictures, whose cells are looked at, ``image_path``
    comes before ``path``.
    """
    known = _NAMES[role]
    ranked = [
        (
            role != "image" and name.lower() not in known,
            min(known.index(word) for word in _words(name) & set(known)),
            index,
            name,
        )
        for index, name in enumerate(names)
        if _words(name) & set(known)
    ]
    return [name for *_, name in sorted(ranked)]


def roles(name: str) -> set[str]:
    """All roles that a column is called like."""
    return {role for role, known in _NAMES.items() if _words(name) & set(known)}


def is_called_picture(name: str) -> bool:
    """Whether a name says picture, and nothing beyond that it is a file: ``image_path``."""
    parts = _words(name) - {name.lower()} or {name.lower()}
    return bool(parts & set(_PICTURE)) and parts <= set(_NAMES["image"])


def _words(name: str) -> set[str]:
    """Parts of a column's name: ``imagePath`` and ``image_path`` hold image and path."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)
    return {spaced.lower(), *re.split(r"[^a-z0-9]+", spaced.lower())}
