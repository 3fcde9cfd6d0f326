"""How the site is built: `make docs`.

Nothing is fetched, neither while building nor while reading: formulas are drawn by the build, and the theme brings its
own styles. Pages that come from code (API, command line, gallery) are made anew by every build.
"""

import sys
import warnings
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_extensions"))

project = "sparsentropy"
author = "The sparsentropy developers"
project_copyright = "The sparsentropy developers. BSD 3-Clause licence"
release = version = version_of("sparsentropy")

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.viewcode",
    "sphinx_gallery.gen_gallery",
    "command_line",
    "docstrings",
    "formulas",
    "pictures",
]
source_suffix = {".rst": "restructuredtext", ".md": "markdown"}
exclude_patterns = ["_build", "_generated"]
templates_path = ["_templates"]
default_role = "py:obj"  # a name in single backticks in a docstring

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
maximum_signature_line_length = 120
numpydoc_show_class_members = False
numpydoc_use_plots = False

sphinx_gallery_conf: dict[str, Any] = {
    "examples_dirs": str(HERE.parent / "examples"),
    "gallery_dirs": "gallery",
    "filename_pattern": r"/plot_",
    "within_subsection_order": "pictures.ReadingOrder",
    "thumbnail_size": (640, 260),
    "show_memory": False,
    "show_signature": False,
    "download_all_examples": False,
    "min_reported_time": 1e9,
    "write_computation_times": False,
    "plot_gallery": True,
    "parallel": True,  # as many as pages at a time
    "abort_on_example_error": True,
    "remove_config_comments": True,
}
# A figure is shown by the site, not on a screen.
warnings.filterwarnings("ignore", message=".*non-interactive.*", category=UserWarning)

html_theme = "furo"
html_title = "sparsentropy"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
html_math_renderer = "drawn"
