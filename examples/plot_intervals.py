"""
Codes come with intervals, and full posteriors have the better ones
===================================================================

Every code has a posterior, so it has an interval as well. How often do intervals of 90 % contain the true code? Where
atoms overlap, diagonal posteriors give the spread of a code as if the others were known, which is too narrow. Full
posteriors are wider: at the true parameters their intervals are fair, and with parameters that were learned nearly so.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch

from sparsentropy import SparseCoding, datasets, plotting
from sparsentropy.inference import DiagonalSolver, FullSolver
from sparsentropy.metrics import dictionary_match
from sparsentropy.model import Parameters

NOISE = 0.3

bars = datasets.make_bars(2000, noise_std=NOISE, seed=0)
# Atoms have unit length, so their codes carry the length of the bars.
lengths = np.linalg.norm(bars.dictionary, axis=0)
codes = bars.codes * lengths

# %%
# At the true parameters nothing but the form of a posterior can be at fault.

truth = Parameters(
    torch.from_numpy(bars.dictionary / lengths),
    torch.from_numpy(lengths),
    torch.tensor(NOISE**2, dtype=torch.float64),
)
x = torch.from_numpy(bars.data)
posteriors = {
    "diagonal": DiagonalSolver()(x, truth).posterior,
    "full": FullSolver()(x, truth).posterior,
}

# %%
# A learned dictionary is not quite the true one, and the intervals do not know that. This one learned from
# other images.

other = datasets.make_bars(2000, noise_std=NOISE, seed=1)
model = SparseCoding(10, posterior="full", random_state=0).fit(other.data)
posteriors["full, learned"] = model.infer(bars.data)

# %%
# An interval of probability p is fair if it contains the true code in p of all cases. Learned atoms stand in an order
# of their own, and some point the other way, so each bar is looked up among them.

match = dictionary_match(model.components_, bars.dictionary.T)
wished = np.array([0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99])
hits = {}
for name, posterior in posteriors.items():
    own = name == "full, learned"
    order, signs = (match.assignment, match.signs) if own else (slice(None), 1)
    ends = [
        [end.numpy()[:, order] * signs for end in posterior.interval(p)] for p in wished
    ]
    hits[name] = np.array(
        [(np.minimum(*end) <= codes) & (codes <= np.maximum(*end)) for end in ends]
    )
    share = 100 * hits[name][wished == 0.9].mean()
    print(f"{name}: 90 % intervals contain {share:.1f} % of the true codes")

# %%
# Left: the ten codes of the first image of which full intervals contain nine, with the true values. Right: how often
# intervals contain the truth; on the dashed line they would be fair.

figure, (left, right) = plt.subplots(
    1, 2, figsize=(9, 3.4), width_ratios=(1.3, 1), layout="constrained"
)
image = int(np.argmax(hits["full"][wished == 0.9].squeeze(0).sum(axis=1) == 9))
bar = np.arange(1, 11)
colors = {"diagonal": plotting.MUTED, "full": plotting.ACCENT, "full, learned": "C1"}
for shift, name in ((-0.15, "diagonal"), (0.15, "full")):
    low, high = (end[image].numpy() for end in posteriors[name].interval(0.9))
    left.vlines(bar + shift, low, high, color=colors[name], linewidth=4)
left.plot(bar, codes[image], "_", color=plotting.INK, markersize=16, label="true code")
left.axhline(0, color=plotting.MUTED, linewidth=0.5)
left.set(xlabel="bar", ylabel="code (data units)", xticks=bar)
left.set_title("90 % intervals of one image")
left.legend(frameon=False)
for name, hit in hits.items():
    right.plot(wished, hit.mean(axis=(1, 2)), "o-", color=colors[name], label=name)
right.plot([0, 1], [0, 1], "--", color=plotting.INK, linewidth=1)
right.set(xlabel="probability of the interval", ylabel="share of true codes inside")
right.set_title("are they fair?")
right.legend(frameon=False)
plt.show()
