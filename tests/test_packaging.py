"""What pyproject.toml promises: lower bounds that can be tested, and the Pythons that are."""

import re
import runpy
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
lowest = runpy.run_path(str(ROOT / ".ci" / "lowest.py"))["lowest"]


def test_every_dependency_has_a_lower_bound_that_is_tested():
    pinned = lowest(PROJECT)
    assert len(pinned) >= len(PROJECT["dependencies"])
    assert {"torch==2.4", "typer==0.20", "zarr==3.0.8"} <= set(pinned)
    assert all(re.fullmatch(r"[\w-]+==[\d.]+", one) for one in pinned)


@pytest.mark.parametrize("requirement", ["numpy", "numpy<3", "numpy>=1.26,<3", "numpy==2.0"])
def test_a_dependency_without_a_lower_bound_is_refused(requirement):
    with pytest.raises(SystemExit, match="has no lower bound alone: write it as name>=release"):
        lowest({"dependencies": [requirement], "optional-dependencies": {"dev": []}})


def test_the_lowest_python_has_a_classifier_as_every_later_one():
    least = int(PROJECT["requires-python"].removeprefix(">=3."))
    named = [one.rpartition(" 3.")[2] for one in PROJECT["classifiers"] if " :: 3." in one]
    assert named == [str(minor) for minor in range(least, least + len(named))]
