"""Pictures of what was learned: every function takes arrays and an axes, draws, and gives the axes back.

One style for all: white or no background, ink for what is fixed beforehand, a single accent colour for what was
learned, axis labels that name the unit. Nothing here opens a window or touches matplotlib's global state, so the
functions work on a server, in a notebook and inside a figure of your own. `to_svg` turns one of them into SVG text that
can stand in a web page. No other part of the package imports matplotlib.
"""

from .comparisons import by_ratio, heat_map, intervals, runs_by_sweep
from .curves import by_step, lower_bound, noise, prior_scales, sparsity
from .groups import against, by_row, clouds
from .pictures import atom_profile, dictionary, examples, profiles
from .style import ACCENT, INK, MUTED, to_svg

__all__ = [
    "ACCENT",
    "INK",
    "MUTED",
    "against",
    "atom_profile",
    "by_ratio",
    "by_row",
    "by_step",
    "clouds",
    "dictionary",
    "examples",
    "heat_map",
    "intervals",
    "lower_bound",
    "noise",
    "prior_scales",
    "profiles",
    "runs_by_sweep",
    "sparsity",
    "to_svg",
]
