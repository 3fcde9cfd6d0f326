"""What is gained by climbing the sum of three entropies? The same learning on other objectives, timed.

One gradient method, one start, one posterior family and one measure for all: Adam on means, standard deviations and the
dictionary climbs the entropy objective, the analytic standard bound (λ held at 1, σ² learned), or that bound estimated
from samples. Each has the best rates of a few. Beside them stand the library's own learning, probabilistic PCA and MAP.
"""

import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor

from sparsentropy import datasets, diagnostics
from sparsentropy.experiments import photographs
from sparsentropy.experiments.arrival import Curve, Run, chosen
from sparsentropy.experiments.finding import Finding
from sparsentropy.experiments.log import Log
from sparsentropy.experiments.race import Race
from sparsentropy.inference import DiagonalSolver
from sparsentropy.learning import baselines, learn, random_starts
from sparsentropy.learning.linear_gaussian import LinearGaussian
from sparsentropy.model import Parameters
from sparsentropy.objectives import elbo_rows
from sparsentropy.posteriors import Diagonal

ENTROPIES, ANALYTIC, PRINCIPAL = "sum of entropies", "analytic", "principal axes"
BATCH = 256  # of MAP learning

Settings = dict[str, Any]
Part = dict[str, Any]
Load = Callable[[Settings, int, int], tuple[Tensor, Tensor]]
"""Settings, rows and seed to rows that are learned from and others that are held out."""


def run(settings: Settings, log: Log) -> Finding:
    """Run the experiment with these numbers (`objectives.toml`)."""
    races = [_race(name, load, settings[name], log) for name, load in (("bars", _bars), ("patches", _patches))]
    return Finding(
        title="The entropy objective, and what else one might climb",
        claim="The entropy objective is analytic, so its gradient has no variance given the data; "
        "does it lead to the same bound in less time than the standard bound, above all where that one is sampled?",
        seen=tuple(sentence for race in races for sentence in race.sentences()),
        metrics={key: value for race in races for key, value in race.metrics().items()},
        times={key: value for race in races for key, value in race.times().items()},
        tables=tuple(table for race in races for table in race.tables()),
        pictures=tuple(picture for race in races for picture in race.pictures()),
    )


def _race(name: str, load: Load, own: Settings, log: Log) -> Race:
    """All that is measured on one kind of data, part by part."""
    objectives = (ENTROPIES, ANALYTIC, *map(_samples, own["samples"]))
    common = _samples(own["common_samples"])
    tried = {key: _tried(name, load, own, key, log) for key in objectives}
    runs, seeds = chosen(tried, common, own["margin"]), own["seeds"]
    climbs: dict[str, list[list[Part]]] = {}
    for key in objectives:
        climbs[key] = [
            [
                log.part(
                    f"{name}, {key}, {run.steps} steps from rate {run.rate:g}, seed {seed}",
                    partial(_climbed, load, own, key, seed, run),
                    "{held_out:.2f} nats held out",
                )
                for run in runs[key]
            ]
            for seed in seeds
        ]

    def each(method: str, compute: Callable[..., Part]) -> list[Part]:
        said = "{held_out:.2f} nats held out"
        return [log.part(f"{name}, {method}, seed {seed}", partial(compute, seed=seed), said) for seed in seeds]

    principal = each(PRINCIPAL, partial(_principal, load, own))
    maps = {f"MAP, alpha = {alpha:g}": partial(_map, load, own, alpha=alpha) for alpha in own["alphas"]}
    return Race(
        name,
        objectives,
        common,
        runs,
        climbs,
        library=each("library", partial(_learned, load, own)),
        others={PRINCIPAL: principal, **{method: each(method, compute) for method, compute in maps.items()}},
        likelihoods=[part["log_likelihood"] for part in principal],
        noises=log.part(f"{name}, noise of gradients", partial(_noises, load, own)),
        counts=own["noise_samples"],
        margin=own["margin"],
    )


# --- Data, and where all of them begin


def _bars(own: Settings, rows: int, seed: int) -> tuple[Tensor, Tensor]:
    bars = datasets.make_bars(rows + own["held_out"], noise_std=own["noise_std"], seed=seed)
    x = torch.from_numpy(bars.data).float()
    return x[:rows], x[rows:]


def _patches(own: Settings, rows: int, seed: int) -> tuple[Tensor, Tensor]:
    x = torch.from_numpy(
        datasets.extract_patches(photographs.whitened(), size=own["size"], n=rows + own["held_out"], seed=seed)
    )
    x = x / x[:rows].std()
    return x[:rows], x[rows:]


def _begin(x: Tensor, own: Settings, seed: int) -> tuple[Parameters, Diagonal]:
    start = random_starts(x, own["atoms"], torch.Generator().manual_seed(seed))[0]
    q = DiagonalSolver()(x, start, max_iter=0, tol=0.0).posterior  # where a Gaussian prior puts them
    assert isinstance(q, Diagonal), "the solver's own family"
    return start, q


def _held_out(x: Tensor, parameters: Parameters) -> float:
    return diagnostics.held_out_bound(x.double(), parameters.to(torch.float64), DiagonalSolver())


# --- The parts


def _samples(k: int) -> str:
    return f"{k} sample{'s' if k > 1 else ''}"


def _horizons(own: Settings, objective: str) -> list[int]:
    """Numbers of steps of the runs of an objective; with the most samples a step takes long."""
    return own["steps_with_most_samples" if objective == _samples(max(own["samples"])) else "steps"]


def _climb(x: Tensor, own: Settings, objective: str, seed: int, run: Run) -> Iterator[baselines.Step]:
    start, q = _begin(x, own, seed)
    pace = {"rate": run.rate, "steps": run.steps, "falling": True, "every": own["every"]}
    if objective == ENTROPIES:
        return baselines.by_gradient_on_entropies(x, start, q, **pace)
    bounds = {_samples(k): baselines.sampled(k, torch.Generator().manual_seed(seed)) for k in own["samples"]}
    return baselines.by_gradient(x, start, q, bound={ANALYTIC: elbo_rows, **bounds}[objective], **pace)


def _tried(name: str, load: Load, own: Settings, objective: str, log: Log) -> dict[Run, Curve]:
    """All rates and numbers of steps, on data that are used for nothing else."""
    seed, curves = own["tuning_seed"], {}
    x = load(own, own["tuning_rows"], seed)[0]

    def compute(run: Run) -> Part:
        told = [(step.number, step.seconds, step.lower_bound) for step in _climb(x, own, objective, seed, run)]
        return {**_columns(told), "end": told[-1][-1]}

    for run in (Run(steps, rate) for steps in _horizons(own, objective) for rate in own["rates"]):
        part = f"{name}, {objective}, {run.steps} steps from rate {run.rate:g}, tried on other data"
        curves[run] = Curve.of(log.part(part, partial(compute, run), "{end:.2f} nats"))
    return curves


def _climbed(load: Load, own: Settings, objective: str, seed: int, run: Run) -> Part:
    x, new = load(own, own["rows"], seed)
    told, last = [], None
    for last in _climb(x, own, objective, seed, run):
        told.append((last.number, last.seconds, last.lower_bound))
    assert last is not None, "there are steps"
    return {**_columns(told), "held_out": _held_out(new, last.parameters)}


def _learned(load: Load, own: Settings, seed: int) -> Part:
    """The library's own learning, from the same start; a step is a sweep."""
    x, new = load(own, own["rows"], seed)
    start, _ = _begin(x, own, seed)
    generator, told, last = torch.Generator().manual_seed(seed), [], None
    begin = time.process_time()
    for last in learn(
        x, [start], DiagonalSolver(), max_iter=own["sweeps"], tol=own["tol"], batch_size=len(x), generator=generator
    ):
        told.append((len(told) + 1, time.process_time() - begin, last.lower_bound))
    assert last is not None, "there are sweeps"
    return {**_columns(told), "held_out": _held_out(new, last.parameters)}


def _columns(told: list[tuple[int, float, float]]) -> Part:
    return dict(zip(("steps", "seconds", "bounds"), map(list, zip(*told, strict=True)), strict=True))


def _principal(load: Load, own: Settings, seed: int) -> Part:
    x, new = load(own, own["rows"], seed)
    begin = time.process_time()
    model = LinearGaussian.fitted(x, own["atoms"])
    seconds = time.process_time() - begin
    likelihood = float(model.log_likelihood(new).mean())
    return {**_refitted(x, new, model.dictionary), "seconds": [seconds], "log_likelihood": likelihood}


def _map(load: Load, own: Settings, seed: int, *, alpha: float) -> Part:
    """The codes of highest posterior density, ½ |x − W z|² + α |z|₁, by scikit-learn from the same start."""
    from sklearn.decomposition import MiniBatchDictionaryLearning

    x, new = load(own, own["rows"], seed)
    start, _ = _begin(x, own, seed)
    model = MiniBatchDictionaryLearning(
        own["atoms"],
        alpha=alpha,  # pyright: ignore[reportArgumentType]
        max_iter=own["map_sweeps"],
        batch_size=BATCH,
        fit_algorithm="cd",
        dict_init=start.dictionary.T.double().numpy(),
        random_state=seed,
        n_jobs=1,
    )
    begin = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it did not converge within so many sweeps: no method here has to
        model.fit(x.double().numpy())
    seconds = time.process_time() - begin
    return {**_refitted(x, new, torch.from_numpy(model.components_.T.copy())), "seconds": [seconds]}


def _refitted(x: Tensor, new: Tensor, dictionary: Tensor) -> Part:
    found = diagnostics.refit(x.double(), dictionary, DiagonalSolver())
    return {"bounds": [found.lower_bound], "held_out": _held_out(new, found.parameters)}


def _noises(load: Load, own: Settings) -> Part:
    """How noisy gradients are, at points of the way that the entropy objective takes on the first seed."""
    seed = own["seeds"][0]
    x = load(own, own["rows"], seed)[0]
    start, q = _begin(x, own, seed)
    way = _climb(x, own, ENTROPIES, seed, Run(max(own["steps"]), own["noise_rate"]))
    far = takewhile(lambda step: step.number <= max(own["noise_after"]), way)
    points = [(q, start), *((step.posterior, step.parameters) for step in far if step.number in own["noise_after"])]
    x, draws = x.double(), own["noise_draws"]
    return {
        "after": [0, *own["noise_after"]],
        "sampled": [
            [diagnostics.gradient_noise(x, q, p, k, draws=draws) for k in own["noise_samples"]] for q, p in points
        ],
        "analytic": [_difference(elbo_rows, x, q, p) for q, p in points],
        "entropies": [_difference(baselines.entropy_rows, x, q, p) for q, p in points],
    }


def _difference(bound: baselines.Bound, x: Tensor, q: Diagonal, p: Parameters) -> float:
    """|g − g'|²/|g|² of the gradients of two evaluations at the same place."""

    def gradient() -> Tensor:
        free = [value.double().clone().requires_grad_() for value in (q.mean, q.std.log(), p.dictionary)]
        model = Parameters(free[2], p.prior_scale.double(), p.noise_variance.double(), p.prior, p.likelihood)
        total = bound(x, Diagonal(free[0], (2 * free[1]).exp()), model).mean()
        return torch.cat([part.ravel() for part in torch.autograd.grad(total, free)])

    one, other = gradient(), gradient()
    return float((one - other).square().sum() / one.square().sum())
