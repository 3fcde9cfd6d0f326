"""The documentation as far as it can be judged without building it: pages, links, examples and what stands in them.

That formulas are drawn, that references lead somewhere and that every example makes its picture, the build itself says:
`make docs`, in which a warning is an error.
"""

import ast
import importlib.util
import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

import sparsentropy

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
MADE = ("_build", "_generated", "gallery", "generated")  # folders that the build writes

PAGES = {
    page.relative_to(DOCS).with_suffix("").as_posix(): page.read_text(encoding="utf-8")
    for page in sorted(DOCS.rglob("*"))
    if page.suffix in (".md", ".rst")
    and not any(part in MADE or part.startswith("_") for part in page.relative_to(DOCS).parts)
}
EXAMPLES = {path.stem: path.read_text(encoding="utf-8") for path in sorted((ROOT / "examples").glob("*.py"))}
TEXTS = {f"docs/{name}.md": text for name, text in PAGES.items() if (DOCS / f"{name}.md").exists()} | {
    name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
}

LINK = re.compile(r"\]\(([^)\s]+)\)")
TOCTREE = re.compile(r"```\{toctree\}\n(.*?)```|^\.\. toctree::\n((?:[ ]+.*\n|\n)*)", re.DOTALL | re.MULTILINE)
AUTOSUMMARY = re.compile(r"^\.\. autosummary::\n((?:[ ]+.*\n|\n)*)", re.MULTILINE)
INCLUDE = re.compile(r"```\{include\} (\S+)\n")


def extension(name):
    """A module of docs/_extensions."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / "_extensions" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def entries(text, where):
    """What the tables of contents of a page name, relative to docs; the gallery counts as a page."""
    folder = Path(where).parent
    for block in TOCTREE.findall(text):
        for line in map(str.strip, "".join(block).splitlines()):
            if line and not line.startswith(":"):
                target = re.sub(r".*<(.+)>$", r"\1", line)
                yield (folder / target).as_posix()


def reachable(pages, start="index"):
    """All pages that tables of contents lead to."""
    found, open_pages = {start}, [start]
    while open_pages:
        page = open_pages.pop()
        for pattern in entries(pages.get(page, ""), page):
            for other in [name for name in pages if fnmatch(name, pattern)] or [pattern]:
                if other not in found:
                    found.add(other)
                    open_pages.append(other)
    return found


def listed(text):
    """Names that a summary with pages of its own lists."""
    blocks = [block for block in AUTOSUMMARY.findall(text) if ":toctree:" in block]
    return {line for block in blocks for line in map(str.strip, block.splitlines()) if line and line[0] != ":"}


def broken_links(text, folder, pages=PAGES, examples=EXAMPLES):
    """Relative links of a Markdown file in a folder that lead to no file and no page the build makes."""
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
    for target in LINK.findall(prose) + INCLUDE.findall(text):
        path = target.split("#")[0]
        if not path or re.match(r"[a-z]+:", path):
            continue
        file = Path(folder, path).resolve()
        if not file.exists() and not is_made(file, pages, examples):
            yield target


def is_made(file, pages, examples):
    """Whether the build makes this file, or this is a page without its ending."""
    if not file.is_relative_to(DOCS):
        return False
    name = file.relative_to(DOCS).as_posix()
    picture = re.fullmatch(r"gallery/images/sphx_glr_(\w+)_\d+\.png", name)
    example = picture[1] if picture else name.removeprefix("gallery/")
    return (
        name in pages or name == "_generated/command-line.md" or (name.startswith("gallery/") and example in examples)
    )


def title(source):
    """The title of an example, if its docstring begins with an underlined one."""
    lines = (ast.get_docstring(ast.parse(source)) or "").splitlines()
    good = len(lines) >= 3 and set(lines[1]) == {"="} and len(lines[1]) >= len(lines[0]) > 0
    return lines[0] if good else None


def draws(source):
    """Whether the code outside functions makes a figure, draws something and shows it, in this order."""
    statements = [ast.unparse(node) for node in ast.parse(source).body if not isinstance(node, ast.FunctionDef)]
    made = [i for i, code in enumerate(statements) if "plt.subplots(" in code or "plt.figure(" in code]
    shown = [i for i, code in enumerate(statements) if code == "plt.show()"]
    return bool(made) and bool(shown) and shown[-1] > made[-1] + 1


def code_blocks(text):
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


# --- The site


def test_every_page_is_reached_by_tables_of_contents():
    assert set(PAGES) - reachable(PAGES) == set()
    assert {"gallery/index", "experiments/index", "command-line", "theory", "how-to-choose"} <= reachable(PAGES)


def test_tables_of_contents_name_pages():
    assert reachable(PAGES) - set(PAGES) == {"gallery/index"}


def test_every_experiment_has_its_page():
    folders = {path.name for path in (DOCS / "experiments").iterdir() if path.is_dir()}
    assert {name for name in folders if f"experiments/{name}/index" not in reachable(PAGES)} == set()


def test_all_public_names_have_a_page():
    public = {name for name in dir(sparsentropy) if not name.startswith("__")} | set(sparsentropy.__all__)
    assert {name for name in public if f"sparsentropy.{name}" not in listed(PAGES["api/index"])} == set()


def test_pages_of_the_api_are_of_things_that_exist():
    classes = {f"sparsentropy.{name}" for name in sparsentropy.__all__}
    modules = listed(PAGES["api/index"]) - classes
    assert {name for name in modules if importlib.util.find_spec(name) is None} == set()


@pytest.mark.parametrize("name", TEXTS)
def test_links_lead_to_files(name):
    assert list(broken_links(TEXTS[name], (ROOT / name).parent)) == []


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_have_a_title_and_make_a_picture(name):
    assert name.startswith("plot_"), "the gallery runs only these"
    assert title(EXAMPLES[name])
    assert draws(EXAMPLES[name])


def test_the_order_of_the_gallery_names_examples():
    order = ast.literal_eval(
        re.search(r"^ORDER = (\(.*?\))$", (DOCS / "_extensions" / "pictures.py").read_text(), re.MULTILINE | re.DOTALL)[
            1
        ]
    )
    assert {f"plot_{name}" for name in order} == set(EXAMPLES)


def test_the_first_program_runs_and_prints_what_it_says(capsys):
    (program,) = code_blocks(PAGES["index"])
    exec(compile(program, "docs/index.md", "exec"), {})
    shape, *_ = printed = capsys.readouterr().out.splitlines()
    assert shape == "(10, 25)"
    noise = [float(line) for line in printed if re.fullmatch(r"0\.\d+", line)]
    assert noise == [pytest.approx(0.1, abs=0.01)]


def test_readme_and_landing_page_have_the_same_program():
    assert code_blocks(PAGES["index"]) == code_blocks(TEXTS["README.md"])


def test_the_reference_of_the_command_line_has_every_command_and_whole_sentences():
    command = [sys.executable, "-m", "typer", "sparsentropy.cli", "utils", "docs", "--name", "sparsentropy"]
    told = subprocess.run(command, check=True, capture_output=True, text=True, encoding="utf-8").stdout
    text = extension("command_line").reference(told)
    commands = re.findall(r"^## `sparsentropy (\w+)`$", text, re.MULTILINE)
    assert {"demo", "fit", "encode", "score", "report", "reproduce"} <= set(commands)
    for name in commands:
        sentence = re.search(rf"^\* \[`{name}`\]\(#sparsentropy-{name}\): (.*)$", text, re.MULTILINE)[1]
        assert sentence.endswith(".")
        assert not sentence.endswith("...")
    assert "<span" not in text
    assert "&gt;" not in text
    assert "at least 1]" in text


def test_bars_are_escaped_in_prose_only():
    lines = ["E|z| and `a|b`", "", ">>> f(1 | 2)", "3 | 4", "", ".. math:: |x|", "   |y|", "", "|z|"]
    expected = [r"E\|z\| and `a|b`", *lines[1:-1], r"\|z\|"]
    extension("docstrings").escape_bars(None, "", "", None, None, lines)
    assert lines == expected


# --- The checks themselves


def test_pages_that_nobody_can_reach_are_seen():
    pages = {
        "index": "```{toctree}\n:hidden:\n\na\nNamed <b/index>\n```\n",
        "a": "",
        "b/index": ".. toctree::\n   :glob:\n\n   */index\n",
        "b/x/index": "",
        "lost": "",
    }
    assert reachable(pages) == {"index", "a", "b/index", "b/x/index"}
    assert "gone" in reachable({"index": "```{toctree}\ngone\n```\n"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[a](theory.md)", []),
        ("[a](theory.md#the-bound) [b](#here) [c](https://example.org/x.md)", []),
        ("[a](theory)", []),
        ("[a](nothing.md)", ["nothing.md"]),
        ("![a](gallery/images/sphx_glr_plot_bars_001.png)", []),
        ("![a](gallery/images/sphx_glr_plot_nothing_001.png)", ["gallery/images/sphx_glr_plot_nothing_001.png"]),
        ("[a](gallery/plot_bars)", []),
        ("[a](gallery/plot_nothing)", ["gallery/plot_nothing"]),
        ("`[a](nothing.md)`", []),
        ("```{include} ../README.md\n```", []),
        ("```{include} ../NOTHING.md\n```", ["../NOTHING.md"]),
    ],
)
def test_broken_links_are_seen(text, expected):
    assert list(broken_links(text, DOCS, pages={"theory": ""}, examples={"plot_bars": ""})) == expected


def test_names_without_a_page_are_seen():
    text = ".. autosummary::\n   :toctree: generated\n\n   sparsentropy.a\n\nB\n-\n\n"
    text += ".. autosummary::\n\n   sparsentropy.b\n"
    assert listed(text) == {"sparsentropy.a"}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('"""\nTitle\n=====\n\nText.\n"""', "Title"),
        ('"""Title.\n\nText.\n"""', None),
        ('"""\nTitle\n===\n\nText.\n"""', None),
        ("x = 1", None),
    ],
)
def test_missing_titles_are_seen(source, expected):
    assert title(source) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("figure, ax = plt.subplots()\nax.plot(x)\nplt.show()", True),
        ("figure, ax = plt.subplots()\nplt.show()", False),
        ("figure, ax = plt.subplots()\nax.plot(x)", False),
        ("def f():\n    figure, ax = plt.subplots()\n    ax.plot(x)\nplt.show()", False),
        ("print(1)", False),
    ],
)
def test_missing_pictures_are_seen(source, expected):
    assert draws(source) is expected
