"""Check that each number of README.md that names its evidence stands in that evidence.

    python tools/check_claims.py

A comment ``<!-- numbers of benchmarks/evidence/FILE.md -->`` begins a claim, which ends at a blank
line; a table counts as one. Numbers are those with decimals; evidence may have more of them.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
_CLAIM = re.compile(r"<!-- numbers of (?P<files>[^>]+?) -->\n(?P<text>.*?)(?:\n\n|\Z)", re.DOTALL)
_NUMBER = re.compile(r"(?<![\d.])\d+\.\d+")


def unsupported(page: str, root: Path) -> list[str]:
    """A line for each number of a claim that none of the files that it names has."""
    missing = []
    for claim in _CLAIM.finditer(page):
        files = claim["files"].split(", ")
        evidence = _NUMBER.findall("\n".join((root / file).read_text() for file in files))
        known = {f"{float(number):.{digits}f}" for number in evidence for digits in (1, 2, 3)}
        said = _NUMBER.findall(claim["text"])
        missing += [f"{number} is not in {claim['files']}" for number in {*said} - known]
        if not said:
            missing.append(f"no number is claimed of {claim['files']}")
    return missing


def main() -> int:
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    missing = unsupported(page, ROOT)
    print("\n".join(missing) or f"{len(_CLAIM.findall(page))} claims of README.md are supported.")
    return bool(missing)


if __name__ == "__main__":
    sys.exit(main())
