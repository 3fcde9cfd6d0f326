"""sparsentropy: sparse codes with uncertainty and with no penalty to tune.

`SparseCoding` learns a dictionary, the prior scale of every atom and the noise level by itself; the namespaces hold
the parts it is made of. Importing the package is as cheap as its name: torch and scikit-learn are loaded when
something is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparsentropy.estimator import SparseCoding
    from sparsentropy.fitting import Progress

__version__ = "0.1.0"
_HOMES = {"Progress": "fitting", "SparseCoding": "estimator"}
_NAMESPACES = (
    "contexts",
    "datasets",
    "diagnostics",
    "fitting",
    "gabor",
    "gaps",
    "imaging",
    "inference",
    "learning",
    "likelihoods",
    "metrics",
    "model",
    "module",
    "objectives",
    "plotting",
    "posteriors",
    "priors",
    "schedules",
    "selection",
    "storage",
)
__all__ = ["Progress", "SparseCoding"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"sparsentropy.{_HOMES[name]}"), name)
    if name in _NAMESPACES:
        return import_module(f"sparsentropy.{name}")
    raise AttributeError(f"module 'sparsentropy' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*_HOMES, *_NAMESPACES, "__version__"])
