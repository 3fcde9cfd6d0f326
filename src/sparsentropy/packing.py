"""Values of learning as arrays and JSON, and back again, bit by bit and without any code in between.

A value may be a number, a word, a tensor, a list, a tuple, or one of the frozen values of the library that are named
here; whatever else stands in a file is refused.
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
import torch

from sparsentropy.learning import Sweep
from sparsentropy.learning.annealing import Detour
from sparsentropy.learning.course import BatchCourse, Course, EncoderCourse
from sparsentropy.learning.quasi_newton import Memory
from sparsentropy.learning.task import State
from sparsentropy.likelihoods import Gaussian
from sparsentropy.model import Parameters
from sparsentropy.objectives import Marginals, Statistics
from sparsentropy.posteriors import Diagonal, Full, LowRank
from sparsentropy.priors import Laplace

COURSES = (BatchCourse, Course, EncoderCourse)
POSTERIORS = (Diagonal, Full, LowRank)
OTHERS = (Detour, Gaussian, Laplace, Marginals, Memory, Parameters, State, Statistics, Sweep)
KINDS: dict[str, Any] = {kind.__name__: kind for kind in (*COURSES, *POSTERIORS, *OTHERS)}
LEFT_OUT = {"posteriors", "factors"}  # fields that are too large, or made again


def packed(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """JSON for a value; its tensors go into `arrays`.

    Examples
    --------
    >>> arrays = {}
    >>> text = packed([1.5, (torch.zeros(2), Laplace())], arrays)
    >>> text, len(arrays)
    ([1.5, {'tuple': [{'array': '0'}, {'kind': 'Laplace', 'fields': {}}]}], 1)
    >>> unpacked(text, arrays)
    [1.5, (tensor([0., 0.]), Laplace())]
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, torch.Tensor):
        array = value.cpu().numpy()
        place = array.__array_interface__
        # What several values share, a dictionary say, is kept once
        same = (name for name, other in arrays.items() if other.__array_interface__ == place)
        name = next(same, str(len(arrays)))
        arrays[name] = array
        return {"array": name}
    if isinstance(value, list):
        return [packed(one, arrays) for one in value]
    if isinstance(value, tuple):
        return {"tuple": [packed(one, arrays) for one in value]}
    kind = type(value).__name__
    if KINDS.get(kind) is not type(value):
        raise TypeError(f"{kind} cannot be packed")
    inner = {f.name: packed(getattr(value, f.name), arrays) for f in fields(value) if f.name not in LEFT_OUT}
    return {"kind": kind, "fields": inner}


def unpacked(text: Any, arrays: Mapping[str, np.ndarray], device: torch.device | None = None) -> Any:
    """The value again; what was too large is None.

    Raises
    ------
    KeyError, TypeError, ValueError
        If it is not what `packed` made.
    """
    if isinstance(text, list):
        return [unpacked(one, arrays, device) for one in text]
    if not isinstance(text, dict):
        return text
    if "array" in text:
        tensor = torch.from_numpy(np.array(arrays[text["array"]]))
        return tensor if tensor.dtype == torch.uint8 else tensor.to(device)  # states of generators stay where they are
    if "tuple" in text:
        return tuple(unpacked(one, arrays, device) for one in text["tuple"])
    kind = KINDS[text["kind"]]
    inner = {name: unpacked(one, arrays, device) for name, one in text["fields"].items()}
    missing = {f.name for f in fields(kind)} & LEFT_OUT
    return kind(**inner, **dict.fromkeys(missing))
