"""How the parameters follow from the statistics of the posteriors: the M-step, and the loop around both steps.

`em` has the closed forms, `rotation` the step along which the fit does not change, `quasi_newton` the accelerated
step on the bound as a function of the dictionary alone, `annealing` the detour with other weights at the beginning,
and `loop` decides which of them is taken when. None of them sees how the posteriors were found. `minibatch` is for
dictionaries so wide that nothing of the size of all pairs of atoms can be held, and `gradient` for posteriors that an
encoder finds, which has to learn as well.
"""

from sparsentropy.learning.annealing import Schedule
from sparsentropy.learning.gradient import learn_amortized
from sparsentropy.learning.loop import learn
from sparsentropy.learning.minibatch import learn_by_batches
from sparsentropy.learning.shelf import IN_MEMORY, Cache
from sparsentropy.learning.start import most_atoms, random_starts, suitable_number
from sparsentropy.learning.task import Sweep

__all__ = [
    "IN_MEMORY",
    "Cache",
    "Schedule",
    "Sweep",
    "learn",
    "learn_amortized",
    "learn_by_batches",
    "most_atoms",
    "random_starts",
    "suitable_number",
]
