"""The settings of torch under which a model computes, and that programs get theirs back."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from sparsentropy import SparseCoding, arithmetic, imaging
from sparsentropy.inference import DiagonalSolver
from sparsentropy.inference.diagonal import operations

X = np.random.default_rng(0).laplace(size=(200, 4))


@pytest.fixture
def settings():
    """Let a test change what torch uses."""
    precision, threads = torch.get_float32_matmul_precision(), torch.get_num_threads()
    yield
    torch.set_float32_matmul_precision(precision)
    torch.set_num_threads(threads)


def test_threads_share_what_is_large(settings, monkeypatch):
    torch.set_num_threads(6)
    monkeypatch.setattr("sparsentropy.arithmetic.cpu_count", lambda **_: 4)
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    assert arithmetic.n_threads(1e9) == 1
    assert arithmetic.n_threads(1e11) == 4  # what the machine grants
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "3")
    assert arithmetic.n_threads(1e11) == 3
    torch.set_num_threads(2)
    assert arithmetic.n_threads(1e11) == 2  # what the program allows


def test_products_of_usual_size_are_not_shared():
    assert operations(512, 256) < arithmetic.WORTH_SHARING < operations(16_384, 4096)


def test_containers_are_asked_for_their_quota():
    code = (
        "import torch; from sparsentropy import arithmetic; torch.set_num_threads(8); print(arithmetic.n_threads(1e12))"
    )
    limited = os.environ | {"LOKY_MAX_CPU_COUNT": "1"}  # read by joblib, as the quota of a container is
    found = subprocess.run([sys.executable, "-c", code], env=limited, capture_output=True, check=True)
    assert int(found.stdout) == 1


def test_a_small_model_computes_with_one_thread(settings, monkeypatch):
    torch.set_num_threads(2)
    used, called = [], []
    call = DiagonalSolver.at

    def watched(self, parameters):
        used.append(torch.get_num_threads())
        return call(self, parameters)

    monkeypatch.setattr(DiagonalSolver, "at", watched)
    model = SparseCoding(2, tol=1e9, random_state=0, callback=lambda _: called.append(torch.get_num_threads()))
    model.fit(X)
    model.partial_fit(X[:50])
    for method in (model.transform, model.infer, model.impute, model.reconstruct, model.score_samples):
        method(X[:5])
    assert set(used) == set(called) == {1}
    assert torch.get_num_threads() == 2


def test_settings_return_after_computations_that_overlap(settings):
    torch.set_num_threads(2)
    torch.set_float32_matmul_precision("medium")
    first_is_in, second_is_in, first_is_out = (threading.Event() for _ in range(3))
    found = {}

    def first():
        with arithmetic.computing():
            first_is_in.set()
            second_is_in.wait(10)
        first_is_out.set()

    def second():
        first_is_in.wait(10)
        with arithmetic.computing():
            second_is_in.set()
            first_is_out.wait(10)
            found["inside"] = torch.get_float32_matmul_precision()
        found["threads"] = torch.get_num_threads()

    def third():
        found["new"] = torch.get_num_threads()

    for targets in ((first, second), (third,)):
        workers = [threading.Thread(target=target) for target in targets]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    # The first one to end must not take the digits from the other (TF32 costs up to 17 nats)
    assert found == {"inside": "highest", "threads": 2, "new": 2}
    assert (torch.get_float32_matmul_precision(), torch.get_num_threads()) == ("medium", 2)


def test_a_computation_within_another_leaves_its_settings(settings):
    torch.set_num_threads(2)
    torch.set_float32_matmul_precision("medium")
    with arithmetic.computing():
        with arithmetic.computing(1e12):
            pass
        assert (torch.get_float32_matmul_precision(), torch.get_num_threads()) == ("highest", 1)
    with pytest.raises(RuntimeError), arithmetic.computing():
        raise RuntimeError
    assert (torch.get_float32_matmul_precision(), torch.get_num_threads()) == ("medium", 2)


def blas_threads():
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


def test_images_are_restored_with_one_thread_in_all_libraries(settings):
    torch.set_num_threads(2)
    image, seen = np.random.default_rng(0).normal(size=(40, 40)), []
    with threadpool_limits(2, user_api="blas"):
        before = blas_threads()

        def look(share):
            seen.append((torch.get_num_threads(), blas_threads()))

        imaging.denoise(image, sigma=1.0, callback=look)
        imaging.inpaint(image, image > 1, callback=look)
        assert blas_threads() == before
    assert seen
    assert all(found == (1, {1}) for found in seen)
    assert torch.get_num_threads() == 2


def test_blocks_that_overlap_give_threads_back_once(settings):
    with threadpool_limits(2, user_api="blas"):
        before, first, second = blas_threads(), arithmetic.single_threaded(), arithmetic.single_threaded()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert blas_threads() == {1}
        second.__exit__(None, None, None)
        assert blas_threads() == before
