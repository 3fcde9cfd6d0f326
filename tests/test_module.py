"""Gradients through codes against finite differences, and the module against the model that it was made of."""

import numpy as np
import pytest
import torch

from cases import generator, normal, positive, unit_dictionary
from sparsentropy import SparseCoding
from sparsentropy.datasets import make_bars
from sparsentropy.learning import gradient
from sparsentropy.model import Parameters
from sparsentropy.module import SparseCodingModule
from sparsentropy.objectives import elbo_rows
from sparsentropy.posteriors import Diagonal

BARS = make_bars(400, noise_std=0.1, seed=0).data


def problem(d, h, seed=0):
    """Five data points, and a module; unlike parameters that were learned, with atoms of any length."""
    draw = generator(seed)
    W = unit_dictionary(d, h, draw) * positive(h, draw=draw)
    parameters = Parameters(W, positive(h, draw=draw), torch.tensor(0.3, dtype=torch.float64))
    return 2 * normal(5, d, draw=draw), SparseCodingModule(parameters, unit=4.0)


@pytest.mark.parametrize(("d", "h"), [(6, 4), (4, 4), (4, 7)], ids=["h<d", "h=d", "h>d"])
def test_gradients_are_those_of_finite_differences(d, h):
    x, module = problem(d, h)
    weights = normal(2, 5, h, draw=generator(1))

    def value():
        q = module.infer(x)
        return (weights[0] * q.mean + weights[1] * q.std).sum()

    x.requires_grad_()
    value().backward()
    for tensor in (x, *module.parameters()):
        flat, gradient = tensor.detach().view(-1), tensor.grad.view(-1)
        for index in range(0, len(flat), max(1, len(flat) // 6)):
            before, step = flat[index].item(), 1e-4
            flat[index] = before + step
            up = value().item()
            flat[index] = before - step
            down = value().item()
            flat[index] = before
            assert gradient[index].item() == pytest.approx((up - down) / (2 * step), rel=2e-3, abs=2e-4)


def test_the_gradient_of_the_bound_ignores_how_codes_move():
    """At the optimum the bound does not change with them: the envelope theorem."""
    x, module = problem(6, 4)
    module.lower_bound(x).backward()
    through = [parameter.grad.clone() for parameter in module.parameters()]
    module.zero_grad()
    p, q = module.parameters_of_model, module.infer(x)
    fixed = Diagonal((q.mean / 4).detach(), (q.variance / 16).detach())
    elbo_rows(x / 4, fixed, p).mean().backward()
    for found, parameter in zip(through, module.parameters(), strict=True):
        torch.testing.assert_close(found, parameter.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("unit", [1.0, 1000.0])
def test_it_does_what_the_model_does(dtype, unit):
    data = (unit * BARS).astype(dtype)
    model = SparseCoding(8, random_state=0).fit(data)
    module, x = model.to_module(), torch.from_numpy(data[:50])
    loose = {"rtol": 1e-3, "atol": 1e-3 * unit}
    np.testing.assert_allclose(module.encode(x).detach(), model.transform(data[:50]), **loose)
    np.testing.assert_allclose(module(x).detach(), model.reconstruct(data[:50]), **loose)
    np.testing.assert_allclose(module.infer(x).std.detach(), model.infer(data[:50]).std, **loose)
    assert module.lower_bound(x).item() == pytest.approx(model.score(data[:50]), abs=1e-2)
    assert module.dictionary.dtype == x.dtype


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    "kind", [{"posterior": "diagonal"}, {"posterior": "low-rank", "rank": 2, "encoder": "mlp"}], ids=str
)
def test_an_encoder_comes_along(kind, monkeypatch):
    monkeypatch.setattr(gradient, "WARM_UP", 20)
    monkeypatch.setattr(gradient, "STEPS", 5)
    model = SparseCoding(8, inference="amortized", max_iter=3, random_state=0, **kind).fit(BARS)
    module, x = model.to_module(), torch.from_numpy(BARS[:20])
    np.testing.assert_allclose(module.encode(x).detach(), model.transform(BARS[:20]), atol=1e-5)
    module.lower_bound(x).backward()
    assert all(parameter.grad is not None for parameter in module.encoder.parameters() if parameter.numel())
    assert module.encoder is not model.encoder_


def test_training_in_a_network_raises_the_bound():
    model = SparseCoding(10, random_state=0).fit(BARS)
    module, x = model.to_module(), torch.from_numpy(BARS)
    optimiser = torch.optim.Adam(module.parameters(), lr=0.01)
    with torch.no_grad():
        module.dictionary += 0.1 * normal(*module.dictionary.shape, draw=generator(0))
    before = module.lower_bound(x).item()
    for _ in range(20):
        optimiser.zero_grad()
        (-module.lower_bound(x)).backward()
        optimiser.step()
    assert module.lower_bound(x).item() > before + 5
    assert model.score(BARS) == pytest.approx(model.lower_bound_, abs=1e-3)  # the model has copies of its own


def test_other_optima_have_no_derivatives():
    with pytest.raises(ValueError, match="posterior='diagonal' or inference='amortized'"):
        SparseCoding(4, posterior="full", tol=1e3, random_state=0).fit(BARS[:50]).to_module()
