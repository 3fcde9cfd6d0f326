"""The reference of the command line, made from the commands themselves.

`sparsentropy COMMAND --help` and this page have one source, so they cannot contradict each other.
"""

import html
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

BOLD = re.compile(r'<span style="font-weight: bold">(.*?)</span>', re.DOTALL)
COMMAND = re.compile(r"^## `sparsentropy (\S+)`\n\n(.+?)\n", re.MULTILINE)
SHORTENED = re.compile(r"^\* `(\w+)`: .*\.\.\.$", re.MULTILINE)
LIMITS = (
    (re.compile(r"; x>=([\d.]+)\]"), r", at least \1]"),
    (re.compile(r"; ([\d.]+)<=x<=([\d.]+)\]"), r", \1 to \2]"),
)


def reference(text: str) -> str:
    """What typer says of the commands, as the rest of a page.

    Parameters
    ----------
    text : str
        Markdown, beginning with a heading, which the page has already.

    Returns
    -------
    str
        With whole sentences in the list of commands, and links to what is said of each.
    """
    text = html.unescape(BOLD.sub(r"`\1`", text.split("\n", 1)[1]))
    sentences = dict(COMMAND.findall(text))
    text = SHORTENED.sub(lambda match: f"* [`{match[1]}`](#sparsentropy-{match[1]}): {sentences[match[1]]}", text)
    for limit, words in LIMITS:
        text = limit.sub(words, text)
    return text


def write(app: "Sphinx") -> None:
    """Write the reference to a file that a page includes."""
    tell = [sys.executable, "-m", "typer", "sparsentropy.cli", "utils", "docs", "--name", "sparsentropy"]
    text = reference(subprocess.run(tell, check=True, capture_output=True, text=True, encoding="utf-8").stdout)
    target = Path(app.srcdir) / "_generated" / "command-line.md"
    target.parent.mkdir(exist_ok=True)
    if not target.exists() or target.read_text(encoding="utf-8") != text:
        target.write_text(text, encoding="utf-8")


def setup(app: "Sphinx") -> dict[str, bool]:
    """Write the file before pages are read."""
    app.connect("builder-inited", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
