"""Print the lowest releases that pyproject.toml allows, one requirement a line, for pip.

`make lowest` tests with these. Every dependency is written as `name>=release`, and that release has to exist.
"""

import re
import sys
import tomllib
from pathlib import Path

PROJECT = Path(__file__).parents[1] / "pyproject.toml"
TOOLS = {"pyright", "ruff"}  # look at the source, and import nothing
LOWER = re.compile(r"([A-Za-z0-9._-]+)(\[[a-z,]+\])?>=([0-9.]+)")


def lowest(project: dict) -> list[str]:
    """What is needed to run the tests, each pinned to the release that is its lower bound."""
    pinned = []
    for requirement in project["dependencies"] + project["optional-dependencies"]["dev"]:
        found = LOWER.fullmatch(requirement)
        if found is None:
            sys.exit(f"{PROJECT}: {requirement!r} has no lower bound alone: write it as name>=release")
        if found[1] not in TOOLS:
            pinned.append(f"{found[1]}{found[2] or ''}=={found[3]}")
    return pinned


if __name__ == "__main__":
    print("\n".join(lowest(tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"])))
