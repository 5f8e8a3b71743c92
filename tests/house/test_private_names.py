"""No private name of another package is used but a few; the source says why beside each."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src" / "epic_pl"
ALLOWED = {
    "module/callbacks/checkpoints.py": ["_data_fetcher", "_should_check_val_fx"],
    "module/checkpoint.py": ["_trainer"],
    "module/compilation.py": ["_compiled_call_impl", "_dynamo"],
    "module/companions.py": ["_average_model"],
    "module/metrics.py": ["_update_state"],
    "nn/encoders/base.py": ["_apply", "_apply"],
    "nn/encoders/build.py": ["_attn_implementation", "_experts_implementation"],
    "nn/encoders/timm_eva.py": ["_pos_embed"],
    "nn/encoders/timm_vit.py": ["_pos_embed"],
    "nn/methods/ensemble.py": ["_pytree"],
}
PUBLIC = {"_asdict", "_exit", "_fields", "_replace"}  # documented, of named tuples and `os`
_PRIVATE = re.compile(r"_[a-zA-Z]\w*")


def own_names(trees: list[ast.Module]) -> Counter[str]:
    """How often the sources define a name: as function, class, field, or ``self._name``."""
    names: Counter[str] = Counter()
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names[node.name] += 1
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names[node.id] += 1
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names[node.attr] += ast.unparse(node.value) in ("self", "cls")
    return names


def foreign_names(tree: ast.Module, own: Counter[str]) -> Iterator[str]:
    """Private names that a module takes from elsewhere, and methods that ``super()`` has too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            of_super = isinstance(node.value, ast.Call) and ast.unparse(node.value) == "super()"
            if own[node.attr] < 1 + of_super:
                yield from [node.attr] * (1 + of_super)  # its definition here, and this call
        elif isinstance(node, ast.ImportFrom) and not str(node.module).startswith("epic_pl"):
            yield from str(node.module).split(".")
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("attr"):
            words = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
            yield from (word for word in words if not own[word])


def test_private_names_of_other_packages_are_those_that_have_a_reason():
    trees = {path: ast.parse(path.read_text()) for path in sorted(SOURCE.rglob("*.py"))}
    own = own_names([*trees.values()])
    found = {}
    for path, tree in trees.items():
        names = map(str, foreign_names(tree, own))
        if used := sorted(n for n in names if _PRIVATE.fullmatch(n) and n not in PUBLIC):
            found[path.relative_to(SOURCE).as_posix()] = used
    assert found == ALLOWED
