"""Every option that an error or a page of the docs names is one that the parser knows."""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from epic_pl import data
from epic_pl.run.epic_cli import parse
from epic_pl.run.suggestions import option_names

ROOT = Path(__file__).parents[2]
_SECTIONS = (
    *("model", "data", "trainer", "cache", "checkpoint", "last_checkpoint", "early_stopping"),
    *("predictions", "report"),
)
_DOTTED = re.compile(rf"(?<![\w./-])(?:--)?((?:{'|'.join(_SECTIONS)})(?:\.[a-z_]+)+)(?![\w/(])")
# names of files, of submodules, and of options of a logger and of classes outside look alike
_OTHER = re.compile(
    r"\.(csv|html|json|md|onnx|parquet|png|safetensors)$|_tower"
    r"|^trainer\.(logger\.init_args|callback_metrics)|^model\.init_args\.encoders|^data\.inspection$"
    r"|^model\.(method\.width|method\.of\.num_prompts|loss\.margin|prompts|hubs|members)$|^data\.(rows|unseen|scene_seed)$"
)
_ADVICE = re.compile(r"\b[Ss]et ([a-z]+(?:[._][a-z_]+)+)(?: |=)")


@pytest.fixture(scope="module")
def known() -> set[str]:
    """Full names of all options, and all sections on the way to them."""
    names = {"model.help", "model.method.help", "data.help", "data.class_path", "model.init_args"}
    names |= set(option_names(parse(["fit", "--config", "openmoji.yaml"]).parser))
    kinds = {base for name in data.__all__ for base in inspect.getmro(getattr(data, name))}
    for kind in kinds:  # and the attributes that other options are linked to
        for each in (*inspect.signature(kind.__init__).parameters, *vars(kind)):
            names |= {f"data.{each}", f"data.init_args.{each}"}
    parts = [name.split(".") for name in names]
    return {".".join(part[:end]) for part in parts for end in range(1, len(part) + 1)}


def literals(path: Path) -> Iterator[str]:
    """String literals of a module, its docstrings included; of an f-string the fixed parts."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
            yield "".join(v.value if isinstance(v, ast.Constant) else "0" for v in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def texts() -> Iterator[tuple[Path, str]]:
    """Messages of the sources, the pages of the docs, and the configs."""
    for path in sorted((ROOT / "src").rglob("*.py")):
        yield from ((path, text) for text in literals(path))
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        yield path, path.read_text()
    for path in sorted((ROOT / "src/epic_pl/cli/configs").rglob("*.yaml")):
        yield path, "\n".join(re.findall("#.*", path.read_text()))


def test_every_option_that_is_named_exists(known):
    wrong = []
    for path, text in texts():
        for name in (*_DOTTED.findall(text), *_ADVICE.findall(text)):
            if _OTHER.search(name) or name in known:
                continue
            if not any(option.endswith(f".{name}") for option in known):
                wrong.append(f"{path.relative_to(ROOT)}: {name}")
    assert not wrong, "\n".join(wrong)
