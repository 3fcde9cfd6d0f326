"""The shape of the package, read from its source: who may import whom, and how long things may get."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "src" / "sparsentropy"
HERE = "tests/test_architecture.py"

LAYERS = [
    {"launch", "arithmetic", "temporaries", "visible"},
    {"rendezvous"},
    {"team"},
    {"schedules", "metrics", "gabor", "datasets", "folded_normal", "precision", "rows", "storage", "folders"},
    {"priors", "likelihoods", "posteriors"},
    {"model", "contexts"},
    {"gaps"},
    {"objectives"},
    {"inference"},
    {"learning"},
    {"packing", "memory"},
    {"checkpoints"},
    {"diagnostics", "inputs", "fitting", "module"},
    {"model_file"},
    {"estimator"},
    {"selection", "plotting", "progress", "columns", "large", "large_images", "terminal"},
    {"preparation", "results"},
    {"report", "experiments", "imputation"},
    {"runs", "options", "imaging"},
    {"image_commands", "table_commands", "fit_command"},
    {"cli"},
    {"__main__", "__init__"},
]
"""Every module or subpackage. It may import what stands in an earlier line, and the rest of its own subpackage."""

ONLY = {
    # Learning is about statistics; only loops, what they hold, and learning with an encoder ask for posteriors
    ("learning", "inference"): {
        "learning.loop",
        "learning.task",
        "learning.shelf",
        "learning.gradient",
        "learning.minibatch",
    },
}
"""(importer, imported) → the modules of the importer that may; narrower than `LAYERS`."""

EXTERNAL = {"matplotlib": {"plotting"}, "sklearn.base": {"estimator"}}
"""External package → the only modules or subpackages that may import it, at the top or inside a function."""

VAGUE = {"utils", "util", "common", "helpers", "misc"}
LONGEST_FILE, LONGEST_FUNCTION = 450, 60


def name_of(path):
    """Dotted name inside the package: `datasets.images`, `datasets.__init__`, `__init__`."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


SOURCES = {name_of(path): path.read_text(encoding="utf-8") for path in sorted(ROOT.rglob("*.py"))}
each_module = pytest.mark.parametrize("name", SOURCES)


def part(name):
    """The entry of `LAYERS` that a module belongs to."""
    return name.split(".")[0]


def layer(name):
    for number, names in enumerate(LAYERS):
        if part(name) in names:
            return number
    pytest.fail(f"{name} belongs to no layer: add {part(name)!r} to LAYERS in {HERE}")


def imported(source, name):
    """Absolute dotted names of all that a module imports, wherever in the module, with the names taken from each."""
    package = ["sparsentropy", *name.split(".")[:-1]]
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{origin}.{alias.name}" for alias in node.names}
    return found


def siblings(source, name):
    """The entries of `LAYERS` that a module imports; `__init__` stands for a name of the package itself."""
    known = {part(module) for module in SOURCES} | set().union(*LAYERS)
    own = [dotted.split(".")[1:] for dotted in imported(source, name) if part(dotted) == "sparsentropy"]
    parts = {names[0] if names and names[0] in known else "__init__" for names in own}
    return parts - ({part(name)} if "." in name else set())


def imports_external(source, name, package):
    return any(dotted == package or dotted.startswith(package + ".") for dotted in imported(source, name))


def is_final(node):
    return any(ast.unparse(decorator) in ("final", "typing.final") for decorator in node.decorator_list)


def may_stay_open(node):
    """Abstract classes and protocols are there to be implemented; the others cannot be subclassed or hold no code."""
    bases = [ast.unparse(base).split("[")[0].split(".")[-1] for base in node.bases]
    return any(
        base in ("ABC", "Protocol", "NamedTuple") or base.endswith(("Enum", "Exception", "Error", "Warning"))
        for base in bases
    )


def open_classes(source):
    classes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef)]
    return [node.name for node in classes if not is_final(node) and not may_stay_open(node)]


def code_lines(function):
    """Lines of a function without its docstring."""
    lines = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function) is not None:
        lines -= function.body[0].end_lineno - function.body[0].lineno + 1
    return lines


def long_functions(source):
    functions = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [function.name for function in functions if code_lines(function) > LONGEST_FUNCTION]


def sentences(docstring):
    return len(re.findall(r"[.!?](?=\s|$)", docstring or ""))


@each_module
def test_every_module_stands_in_one_layer(name):
    layer(name)
    assert sum(part(name) in names for names in LAYERS) == 1


@each_module
def test_imports_point_to_earlier_layers(name):
    wrong = {other for other in siblings(SOURCES[name], name) if layer(other) >= layer(name)}
    assert not wrong, f"{name} may not import {wrong}: see LAYERS in {HERE}"


@pytest.mark.parametrize(("importer", "other"), ONLY)
def test_narrower_permissions(importer, other):
    inside = {name for name in SOURCES if part(name) == importer}
    assert {name for name in inside if other in siblings(SOURCES[name], name)} == ONLY[importer, other]


@each_module
@pytest.mark.parametrize("package", EXTERNAL)
def test_packages_that_only_one_module_may_import(name, package):
    if part(name) not in EXTERNAL[package]:
        assert not imports_external(SOURCES[name], name, package), f"only {EXTERNAL[package]} may import {package}"


@each_module
def test_names_say_what_is_inside(name):
    assert not VAGUE & set(name.split("."))


@each_module
def test_classes_are_abstract_or_final(name):
    found = open_classes(SOURCES[name])
    assert not found, "mark them @final, or derive them from ABC"


@each_module
def test_public_modules_say_what_they_are_for(name):
    public = name.endswith("__init__") or not name.split(".")[-1].startswith("_")
    said = sentences(ast.get_docstring(ast.parse(SOURCES[name])))
    assert said >= 2 or not public, "the docstring of a public module has at least two sentences"


@each_module
def test_files_stay_short(name):
    lines = len(SOURCES[name].splitlines())
    assert lines <= LONGEST_FILE


@each_module
def test_functions_stay_short(name):
    found = long_functions(SOURCES[name])
    assert not found, f"more than {LONGEST_FUNCTION} lines without the docstring"


# --- The checks themselves


@pytest.mark.parametrize(
    ("source", "name", "expected"),
    [
        ("import sparsentropy.model as m", "priors", {"model"}),
        ("from sparsentropy import storage, metrics", "runs", {"storage", "metrics"}),
        ("from sparsentropy.posteriors import Full", "objectives", {"posteriors"}),
        ("from sparsentropy import SparseCoding", "cli", {"__init__"}),
        ("import sparsentropy", "cli", {"__init__"}),
        ("from . import model", "priors", {"model"}),
        ("from .model import Parameters", "priors", {"model"}),
        ("from . import checks", "datasets.images", set()),
        ("from .checks import f", "datasets.images", set()),
        ("from .. import model", "learning.em", {"model"}),
        ("from ..inference import iterative", "learning.loop", {"inference"}),
        ("from sparsentropy.learning.em import f", "learning.loop", set()),
        ("def f():\n    from sparsentropy import cli", "metrics", {"cli"}),
        ("import torch\nfrom numpy import linalg", "metrics", set()),
    ],
)
def test_imports_are_seen(source, name, expected):
    assert siblings(source, name) == expected


@pytest.mark.parametrize(
    ("source", "package", "expected"),
    [
        ("def f():\n    import matplotlib.pyplot as plt", "matplotlib", True),
        ("from matplotlib import figure", "matplotlib", True),
        ("import matplotlib_like", "matplotlib", False),
        ("from sklearn import base", "sklearn.base", True),
        ("from sklearn.base import BaseEstimator", "sklearn.base", True),
        ("import sklearn.datasets", "sklearn.base", False),
    ],
)
def test_external_imports_are_seen(source, package, expected):
    assert imports_external(source, "metrics", package) is expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("class A:\n    pass", ["A"]),
        ("class A(B):\n    pass", ["A"]),
        ("@dataclass\nclass A:\n    pass", ["A"]),
        ("def f():\n    class A:\n        pass", ["A"]),
        ("@final\n@dataclass\nclass A(B):\n    pass", []),
        ("class A(ABC):\n    pass", []),
        ("class A(Protocol[T]):\n    pass", []),
        ("class A(typing.NamedTuple):\n    pass", []),
        ("class A(StrEnum):\n    pass", []),
        ("class A(ValueError):\n    pass", []),
    ],
)
def test_open_classes_are_seen(source, expected):
    assert open_classes(source) == expected


def test_long_functions_are_seen():
    body = "    x = 1\n" * (LONGEST_FUNCTION - 1)
    told = '    """One\n    two."""\n'
    source = f"def short():\n{told}{body}\nclass A:\n  async def long():\n    x = 1\n{body}"
    assert long_functions(source) == ["long"]


def test_sentences_are_counted():
    assert [sentences(text) for text in (None, "One", "One.", "One, i.e.1. Two!", "It is 0.5.")] == [0, 0, 1, 2, 1]


def test_a_module_without_a_layer_is_told_where_to_go():
    with pytest.raises(pytest.fail.Exception, match=f"add 'surprise' to LAYERS in {HERE}"):
        layer("surprise.inside")


@pytest.mark.parametrize("line", (Path(__file__).with_name("slow.txt")).read_text().splitlines())
def test_slow_tests_exist(line):
    """A name that has changed would quietly take its test back into `make test`."""
    path, name = line.split("[")[0].rsplit("::", 1)
    if path.startswith("src/"):
        name = name.rsplit(".", 1)[1]
    file = path.split("::")[0]
    assert f"def {name}(" in (ROOT.parents[1] / file).read_text()
