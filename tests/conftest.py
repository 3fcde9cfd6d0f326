from pathlib import Path

import pytest
import torch

# The arrays of these tests are small: handing them to several threads costs more than it gains.
torch.set_num_threads(1)

SLOW = tuple(Path(__file__).with_name("slow.txt").read_text().splitlines())
"""Beginnings of the names of tests that take two seconds of a core or more, and are not part of `make test`."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.nodeid.startswith(SLOW):
            item.add_marker(pytest.mark.slow)
