"""What the machine can do: the rate of a large matrix product."""

import time

import torch


def product_rate(size: int = 1024, repeats: int = 9) -> float:
    """Float32 matrix products, GFLOP/s."""
    a, times = torch.randn(size, size), []
    for _ in range(repeats):
        began = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - began)
    return 2 * size**3 / min(times) / 1e9
