"""
Notes are found in a spectrogram, and how many there are
========================================================

Half a minute of random chords is made of eight notes, each with overtones and a decay of its own. From the spectrogram
of the sum the library learns twelve atoms. Eight of them are the notes, and their prior scales say so.
"""

import warnings

import matplotlib.pyplot as plt
import numpy as np
from scipy.signal import ShortTimeFFT
from scipy.signal.windows import hann
from sklearn.decomposition import NMF, MiniBatchDictionaryLearning

from sparsentropy import SparseCoding
from sparsentropy.metrics import dictionary_match

RATE, SECONDS = 8000, 30
random = np.random.default_rng(0)
pitches = 220 * 2 ** (np.array([0, 2, 4, 5, 7, 9, 11, 12]) / 12)
time = np.arange(RATE * SECONDS) / RATE


def tone(pitch, seconds):
    return sum(
        np.sin(2 * np.pi * pitch * k * seconds) / k**1.5 for k in range(1, 6)
    ) * np.exp(-4 * seconds)


sound = 0.02 * random.normal(size=time.shape)
for start in np.arange(0, SECONDS - 1.5, 0.15):
    here = slice(round(start * RATE), round((start + 1.2) * RATE))
    for pitch in random.choice(pitches, size=random.integers(1, 4), replace=False):
        sound[here] += random.exponential() * tone(pitch, time[here] - start)

# %%
# Data points are moments, and dimensions are frequencies. Loudness has no offset, silence is zero; so the warning that
# the means of columns are large does not matter here.

warnings.filterwarnings("ignore", "the mean of")
window = ShortTimeFFT(hann(1024), hop=256, fs=RATE, scale_to="magnitude")
spectrogram = np.abs(window.stft(sound))[:300].T
model = SparseCoding(12, random_state=0).fit(spectrogram)

# %%
# Four of the twelve atoms are hardly used: there are eight notes. (What little the others do is to follow how a note
# begins and ends.)

true = np.array([np.abs(window.stft(tone(p, time[:4096])))[:300, 6] for p in pitches])
match = dictionary_match(model.components_, true)
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.2), layout="constrained")
left.bar(range(1, 13), model.prior_scale_)
left.set(xlabel="atom", ylabel="prior scale")
found = (match.signs[:, None] * model.components_[match.assignment]).T
right.imshow(
    found, aspect="auto", origin="lower", cmap="magma", extent=(0.5, 8.5, 0, 2344)
)
right.set(xlabel="note", ylabel="frequency (Hz)")
plt.show()

# %%
# scikit-learn's dictionary learning does not find the notes with any of three penalties. Its non-negative matrix
# factorisation does, since it is told that nothing is negative, but does not say how many there are.

print(f"sparsentropy: least cosine of a note {match.cosines.min():.2f}")
for penalty in (0.001, 0.01, 0.1):
    peer = MiniBatchDictionaryLearning(12, alpha=penalty, random_state=0)
    cosines = dictionary_match(peer.fit(spectrogram).components_, true).cosines
    print(f"dictionary learning, penalty {penalty}: {cosines.min():.2f}")
factors = NMF(12, init="nndsvda", max_iter=1000, random_state=0).fit(spectrogram)
least = dictionary_match(factors.components_, true).cosines.min()
print(f"non-negative matrix factorisation: {least:.2f}")
