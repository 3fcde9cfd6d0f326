"""Docstrings are written to be read in an editor: here they become reStructuredText.

In formulas such as E|z| bars are bars and not the signs of a substitution, and names in single backticks become links
where they are names of the library: `priors.Laplace` is found without its first part.
"""

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from docutils import nodes
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

SPAN_OR_BAR = re.compile(r"(`+)[^`]+\1|\|")


def escape_bars(_app: Any, _what: str, _name: str, _subject: Any, _options: Any, lines: list[str]) -> None:
    """Put a backslash before every bar in prose; code, TeX and examples with their output are left as they are."""
    example, directive = False, None  # the indentation of a directive that has not ended
    for i, line in enumerate(lines):
        text = line.lstrip()
        if not text:
            example = False
            continue
        indent = len(line) - len(text)
        if directive is not None and indent <= directive:
            directive = None
        if text.startswith(">>>"):
            example = True
        if text.startswith(".. "):
            directive = indent
        if not example and directive is None:
            lines[i] = SPAN_OR_BAR.sub(lambda found: "\\|" if found[0] == "|" else found[0], line)


def skip_fields(_app: Any, _what: str, _name: str, subject: Any, _skip: bool, _options: Any) -> bool | None:
    """Leave out the fields of named tuples, which their class describes."""
    return True if (getattr(subject, "__doc__", None) or "").startswith("Alias for field number") else None


def find_short_name(
    app: "Sphinx", env: "BuildEnvironment", node: Any, contnode: "nodes.Element"
) -> "nodes.Element | None":
    """Look for a name of the library that was written without `sparsentropy.` in front."""
    if node.get("refdomain") != "py":
        return None
    domain = env.domains.python_domain
    for name in (f"sparsentropy.{node['reftarget']}", f"sparsentropy.SparseCoding.{node['reftarget']}"):
        if name in domain.objects:
            return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", name, node, contnode)
    return None


def setup(app: "Sphinx") -> dict[str, bool]:
    """Hear of docstrings before numpydoc does, and of names that were not found."""
    app.connect("autodoc-process-docstring", escape_bars, priority=400)
    app.connect("autodoc-skip-member", skip_fields)
    app.connect("missing-reference", find_short_name)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
