"""Small files that are written as a whole or not at all."""

import json
import os
from pathlib import Path
from typing import Any

from epic_pl.untrusted import require_regular


def write_text(path: Path, text: str) -> None:
    """Write a file in one step; of several processes that do, the last one's stays."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file in one step."""
    write_text(path, json.dumps(content, indent=2))


def try_read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None where there is none that can be read."""
    try:
        require_regular(path)
        with path.open(encoding="utf-8") as file:
            content = json.loads(file.read(2**26))  # a longer one is not ours
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None
