"""Several processes that learn together: what they add up, what they agree on, and how they stop.

All of them run the same program on rows of their own. Sums over their rows are added up, and every number on which a
decision depends is that of the first process, so all of them go the same way, whatever they are made of. Who learns
alone is a team of one, to whom nothing has to be said.
"""

import atexit
import gc
import json
import os
import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, final

import torch
import torch.distributed as dist

# The default of its functions is the group of all as it is when they are imported, which DistributedDataParallel does:
# were it later than here, they would hold on to the group after it was destroyed
import torch.distributed.nn.functional
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel


@final
class ElsewhereError(RuntimeError):
    """Another process of the team has failed, and said why."""


class AbstractTeam(ABC):
    """Processes that are counted from 0; the first one speaks for all."""

    rank: int
    size: int

    @abstractmethod
    def sum(self, *values: Tensor) -> tuple[Tensor, ...]:
        """Sums over all processes, the same on each to the last digit.

        Raises
        ------
        KeyboardInterrupt
            In all of them, if Ctrl-C was pressed in any.
        ConnectionError
            If one of them has ended.
        """

    @abstractmethod
    def agreed(self, *values: Tensor) -> tuple[Tensor, ...]:
        """What these are in the first process.

        Raises
        ------
        ConnectionError
            If one of them has ended.
        """

    @abstractmethod
    def told(self, value: Any) -> list[Any]:
        """What every process has to tell, in their order: numbers, words, None, lists and dicts by words.

        Raises
        ------
        ConnectionError
            If one of them has ended.
        """

    @abstractmethod
    @contextmanager
    def attentive(self) -> Iterator[None]:
        """Ctrl-C in this block is heard of by all."""
        yield

    @abstractmethod
    def parallel(self, module: nn.Module, *, spares: bool) -> nn.Module:
        """A module that gives a loss, after which gradients are the mean of those of all processes.

        It may have parameters to spare, which have no part in the loss, if that is said.
        """

    def any(self, wish: bool) -> bool:
        """Whether any process wishes it."""
        return any(self.told(bool(wish)))

    @contextmanager
    def together(self) -> Iterator[None]:
        """What fails in this block in one process fails in all.

        Raises
        ------
        ElsewhereError
            Where it has not failed.
        """
        error = None
        try:
            yield
        except Exception as caught:
            error = caught
        failures = self.told(None if error is None else f"{error}")
        first = next((rank for rank, failure in enumerate(failures) if failure is not None), None)
        if first is None:
            return
        if error is not None and first == self.rank:
            raise error
        raise ElsewhereError(f"process {first} of {self.size}: {failures[first]}") from None


@final
class Alone(AbstractTeam):
    """One process.

    Examples
    --------
    >>> ALONE.sum(torch.ones(2))
    (tensor([1., 1.]),)
    """

    rank, size = 0, 1

    def sum(self, *values: Tensor) -> tuple[Tensor, ...]:
        """See `AbstractTeam`."""
        return values

    def agreed(self, *values: Tensor) -> tuple[Tensor, ...]:
        """See `AbstractTeam`."""
        return values

    def told(self, value: Any) -> list[Any]:
        """See `AbstractTeam`."""
        return [value]

    @contextmanager
    def attentive(self) -> Iterator[None]:
        """See `AbstractTeam`; Ctrl-C interrupts at once."""
        yield

    def parallel(self, module: nn.Module, *, spares: bool) -> nn.Module:
        """See `AbstractTeam`."""
        del spares
        return module


ALONE = Alone()


@final
class Processes(AbstractTeam):
    """All processes of `torch.distributed`."""

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.stopping = False

    def sum(self, *values: Tensor) -> tuple[Tensor, ...]:
        """See `AbstractTeam`; added in float64."""
        flat = torch.cat([*(value.reshape(-1).double() for value in values), _flag(self.stopping, values[0])])
        with self._connected():
            dist.all_reduce(flat)
        if flat[-1]:
            self.stopping = False
            raise KeyboardInterrupt("stopped by hand")
        return _parted(flat, values)

    def agreed(self, *values: Tensor) -> tuple[Tensor, ...]:
        """See `AbstractTeam`; numbers are at most float64."""
        flat = torch.cat([value.reshape(-1).double() for value in values])
        with self._connected():
            dist.broadcast(flat, 0)
        return _parted(flat, values)

    def told(self, value: Any) -> list[Any]:
        """See `AbstractTeam`."""
        words = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        with self._connected():
            dist.all_gather(sizes, torch.tensor([len(words)]))
            room = torch.zeros(max(int(size) for size in sizes), dtype=torch.uint8)
            room[: len(words)] = words
            found = [torch.empty_like(room) for _ in sizes]
            dist.all_gather(found, room)
        return [json.loads(bytes(part[: int(size)].tolist())) for part, size in zip(found, sizes, strict=True)]

    @contextmanager
    def attentive(self) -> Iterator[None]:
        """See `AbstractTeam`; all processes stop at their next sum."""
        self.stopping = False
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(number: int, frame: Any) -> None:
            del number, frame
            self.stopping = True

        before = signal.signal(signal.SIGINT, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def parallel(self, module: nn.Module, *, spares: bool) -> nn.Module:
        """See `AbstractTeam`."""
        # It is in cycles of references and holds on to the group, whose threads would be left when Python ends; if one
        # of them then has a tensor to give back, the process aborts (pytorch/pytorch#190489)
        atexit.unregister(gc.collect)
        atexit.register(gc.collect)
        return DistributedDataParallel(module, find_unused_parameters=spares)

    @contextmanager
    def _connected(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise ConnectionError(
                f"process {self.rank} of {self.size} has lost the others, one of which has ended or is out of reach; "
                "start all of them again, from their last checkpoint if there is one"
            ) from error


def joined() -> AbstractTeam:
    """All processes that torchrun has started, or that the program has connected by itself.

    Returns
    -------
    AbstractTeam

    Raises
    ------
    ValueError
        If there is nothing to join.
    ConnectionError
        If the others are out of reach.
    """
    if not dist.is_available():
        raise ValueError("this build of torch has no torch.distributed, which several processes need: use another one.")
    if not dist.is_initialized():
        if not started_by_torchrun():
            raise ValueError(
                "several processes were expected, but this one was started alone: start the program with "
                "'torchrun --nproc-per-node K', or call torch.distributed.init_process_group before."
            )
        _connect()
    return ALONE if dist.get_world_size() == 1 else Processes()


def started_by_torchrun() -> bool:
    """Whether this process was told of others."""
    return all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))


def started() -> AbstractTeam:
    """The processes that torchrun has started; this one alone if it has not."""
    return joined() if started_by_torchrun() else ALONE


def _connect() -> None:
    backend = "gloo"
    if torch.cuda.is_available():
        # Each process of a machine has a device of its own
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl"
    # After a restart the addresses of processes that are gone may still lie where the new ones look for each other
    attempt = f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    try:
        store, rank, size = next(rendezvous("env://"))
        store = dist.PrefixStore(attempt, store)  # pyright: ignore[reportPrivateImportUsage]
        dist.init_process_group(backend, store=store, rank=rank, world_size=size)
    except (RuntimeError, ValueError) as error:
        raise ConnectionError(
            f"this process has not found the others ({str(error).splitlines()[0]}); check that all were started and "
            "that MASTER_ADDR and MASTER_PORT can be reached from here"
        ) from None
    atexit.register(_disconnect)


def _disconnect() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _flag(wish: bool, like: Tensor) -> Tensor:
    return torch.full((1,), float(wish), dtype=torch.float64, device=like.device)


def _parted(flat: Tensor, like: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Numbers in the shapes and types of these."""
    parts = flat[: sum(value.numel() for value in like)].split([value.numel() for value in like])
    return tuple(part.reshape(value.shape).to(value.dtype) for part, value in zip(parts, like, strict=True))
