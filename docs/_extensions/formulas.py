r"""Formulas as drawings inside the page: no script, no font and no network is needed to read them.

ziamath draws TeX as SVG. A letter that occurs more than once on a page is drawn once and used again. The TeX itself is
what is read aloud. A command that is not known, or a bracket that grew without reason (ziamath does that where \left
and \right enclose bars, so use \Bigl and \Bigr there), is a warning, which ends the build.
"""

import html
import re
from dataclasses import dataclass
from typing import Any, final

import ziamath
from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util import logging

LOG = logging.getLogger(__name__)

UNIT = 17.0  # units of a drawing that are one em of the formula
EM = 1.08  # of the text that is one em of the formula: these letters are smaller than those of the text
TALLEST = 8.0  # em; no formula is as tall
FUNCTION = re.compile(r"\\operatorname\{(\w+)\}")
FUNCTIONS = ("diag", "erf", "mean", "prox", "tr")  # set upright, with a space before and after
SYMBOL = re.compile(r'<symbol id="([^"]+)".*?</symbol>', re.DOTALL)
SIZE = re.compile(r'<svg [^>]*?width="([\d.]+)" height="([\d.]+)"')


@final
@dataclass(frozen=True)
class Drawing:
    """A formula that is drawn; lengths in em of the text around it."""

    svg: str
    width: float
    height: float
    lift: float  # of the lower edge above the line that letters stand on


def draw(tex: str, *, block: bool) -> Drawing:
    """Draw a formula.

    Parameters
    ----------
    tex : str
    block : bool
        Whether it stands on a line of its own.

    Raises
    ------
    ValueError
        If it has unknown commands, or is far taller than any formula should be.
    """
    source = FUNCTION.sub(r"\\\1 ", tex)
    unknown = re.findall(r"\\\w+", convert(source))
    if unknown:
        raise ValueError(f"unknown commands {', '.join(unknown)}; see FUNCTIONS in {__file__}")
    drawn = ziamath.Latex(source, size=UNIT, color="currentColor", inline=not block)
    svg = drawn.svg()
    found = SIZE.match(svg)
    width, height = (float(found[i]) / UNIT * EM if found else 0.0 for i in (1, 2))
    if not 0 < height < TALLEST:
        raise ValueError(f"it is {height:.1f} em tall")
    return Drawing(svg, width, height, drawn.getyofst() / UNIT * EM)


def markup(tex: str, drawing: Drawing, seen: set[str]) -> str:
    """The drawing in HTML, without letters that the page has already; those it brings are added to `seen`."""

    def once(symbol: re.Match[str]) -> str:
        if symbol[1] in seen:
            return ""
        seen.add(symbol[1])
        return symbol[0]

    size = f"width:{drawing.width:.3f}em;height:{drawing.height:.3f}em;vertical-align:{drawing.lift:.3f}em"
    svg = SYMBOL.sub(once, drawing.svg).replace("<svg ", f'<svg aria-hidden="true" style="{size}" ', 1)
    return f'<span class="math" role="img" aria-label="{html.escape(tex)}">{svg}</span>'


def rendered(translator: Any, node: nodes.Element, *, block: bool) -> str:
    """A formula as HTML, or its TeX and a warning."""
    tex = " ".join(node.astext().split())
    try:
        drawing = draw(tex, block=block)
    except Exception as error:  # whatever the drawing stumbles over, the page has to be named
        LOG.warning("formula %r: %s", tex, error, location=node)
        return html.escape(tex)
    return markup(tex, drawing, translator.__dict__.setdefault("letters_drawn", set()))


def inline(translator: Any, node: nodes.math) -> None:
    """Write a formula within a line."""
    translator.body.append(rendered(translator, node, block=False))
    raise nodes.SkipNode


def display(translator: Any, node: nodes.math_block) -> None:
    """Write a formula on a line of its own, which scrolls by itself where the window is narrow."""
    translator.body.append(f'<div class="formula" tabindex="0">{rendered(translator, node, block=True)}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Offer the renderer to Sphinx."""
    ziamath.config.svg2 = True
    ziamath.config.precision = 2
    for name in FUNCTIONS:
        ziamath.declareoperator(f"\\{name}")
    app.add_html_math_renderer("drawn", (inline, None), (display, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
