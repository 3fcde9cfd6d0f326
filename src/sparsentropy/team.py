"""Several processes that learn together: what they add up, what they agree on, and how they stop.

All of them run the same program on rows of their own. Sums over their rows are added up, and every number on which a
decision depends is that of the first process, so all of them go the same way, whatever they are made of. Who learns
alone is a team of one, to whom nothing has to be said.
"""

import atexit
import gc
import json
import signal
import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, final

import torch
import torch.distributed as dist

# The default of its functions is the group of all as it is when they are imported, which DistributedDataParallel does:
# were it later than here, they would hold on to the group after it was destroyed
import torch.distributed.nn.functional
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sparsentropy import launch, rendezvous
from sparsentropy.rendezvous import Attendance


@final
class ElsewhereError(RuntimeError):
    """Another process of the team has failed, and said why."""


@final
class MismatchError(ValueError):
    """Processes were given what does not go together; it is raised in all of them, in the same words."""


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
    def gathered(self, value: Any, place: str) -> list[Any]:
        """As `told`, at a place where all meet for the first time: it is said who does not come there.

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

    def any(self, wish: Callable[[], bool]) -> bool:
        """Whether any process wishes it; Ctrl-C while it is asked is a wish, too.

        Raises
        ------
        ElsewhereError
            If asking has failed in another process only.
        """
        wished, error = True, None
        try:
            wished = bool(wish())
        except KeyboardInterrupt:
            pass
        except Exception as caught:
            error = caught
        answers = self.told([wished, _words(error)])
        if error is not None:
            raise error
        self._raise_first([failure for _, failure in answers], None)
        return any(answer for answer, _ in answers)

    def require_same(self, facts: Mapping[str, str], place: str) -> None:
        """Refuse to go on if something is not the same in all processes.

        Parameters
        ----------
        facts : mapping of str to str
            What is compared, and in words what it is in this process.
        place : str
            What all are expected to do now.

        Raises
        ------
        MismatchError
            In all of them; it names the first difference.
        """
        if self.size == 1:
            return
        found = self.gathered(dict(facts), place)
        for name in dict.fromkeys(name for one in found for name in one):
            if odd := different([one.get(name) for one in found]):
                here, there = (found[rank].get(name, f"no {name}") for rank in odd)
                raise MismatchError(
                    f"process {odd[0]} has {here}, but process {odd[1]} has {there}: start all processes with the same "
                    "program and settings."
                )

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
        self._raise_first(self.told(_words(error)), error)

    def _raise_first(self, failures: list[str | None], error: Exception | None) -> None:
        """Raise what has failed in the first process in which anything has; this one's failure is `error`."""
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

    def gathered(self, value: Any, place: str) -> list[Any]:
        """See `AbstractTeam`."""
        del place
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

    def __init__(self, attendance: Attendance | None = None) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.attendance = attendance  # known only where the program has not connected by itself
        self.stopping = False

    def sum(self, *values: Tensor) -> tuple[Tensor, ...]:
        """See `AbstractTeam`; added in float64."""
        flat = torch.cat([*(value.reshape(-1).double() for value in values), _flag(self.stopping, values[0])])
        with self._connected():
            dist.all_reduce(flat)
        if flat[-1]:
            self.stopping = False
            raise KeyboardInterrupt("interrupted")
        return _parted(flat, values)

    def agreed(self, *values: Tensor) -> tuple[Tensor, ...]:
        """See `AbstractTeam`; numbers are at most float64."""
        flat = torch.cat([value.reshape(-1).double() for value in values])
        with self._connected():
            dist.broadcast(flat, 0)
        return _parted(flat, values)

    def told(self, value: Any) -> list[Any]:
        """See `AbstractTeam`."""
        with self._connected():
            return self._exchanged(value, lambda work: work.wait())

    def gathered(self, value: Any, place: str) -> list[Any]:
        """See `AbstractTeam`."""
        here = self.attendance

        def say(seconds: float) -> None:
            if here is not None:
                here.say(seconds, place)
            else:
                rendezvous.logger.warning(
                    "process %d of %d has waited %.0f s for others to %s", self.rank, self.size, seconds, place
                )

        def wait(work: Any) -> None:
            if rendezvous.wait(work.is_completed, say):
                work.wait()

        with self._connected():
            if here is not None:
                here.come()
            return self._exchanged(value, wait)

    def _exchanged(self, value: Any, wait: Callable[[Any], object]) -> list[Any]:
        """What every process has to tell, after waiting for all of them."""
        words = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        wait(dist.all_gather(sizes, torch.tensor([len(words)]), async_op=True))
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
        if launch.world_size() > 1:
            _connect()
        elif launch.is_complete():
            return ALONE
        else:
            raise ValueError(
                "several processes were expected, but this one was started alone: start the program with "
                "'torchrun --nproc-per-node K', or call torch.distributed.init_process_group before."
            )
    if "cpu:" not in dist.get_backend_config():
        raise ValueError(
            f"the process group was made with the backend {dist.get_backend()!r}, which has nothing for the CPU: make "
            "it with torch.distributed.init_process_group('cpu:gloo,cuda:nccl')."
        )
    return ALONE if dist.get_world_size() == 1 else Processes(_connection.get("attendance"))


def started() -> AbstractTeam:
    """The processes that torchrun has started; this one alone if it has not.

    Raises
    ------
    ValueError
        If the environment tells of others, but not where they are.
    ConnectionError
        If the others are out of reach.
    """
    return joined() if launch.world_size() > 1 else ALONE


def different(values: list[Any]) -> tuple[int, int] | None:
    """The first process whose value is not the most common one, and the first that has this; None if all are alike.

    Examples
    --------
    >>> different([1, 1, 2]), different([2, 1, 1]), different([1, 2]), different([1, 1])
    ((2, 0), (0, 1), (1, 0), None)
    """
    ((common, count),) = Counter(values).most_common(1)
    if count == len(values):
        return None
    return next(rank for rank, value in enumerate(values) if value != common), values.index(common)


_connection: dict[str, Attendance] = {}
"""What the group is known by that was made here; torch keeps the group itself."""


def _connect() -> None:
    backend = "gloo"
    if torch.cuda.is_available():
        # Each process of a machine has a device of its own
        torch.cuda.set_device(launch.local_rank() % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl"
    try:
        here = rendezvous.meet()
        dist.init_process_group(backend, store=here.store, rank=here.rank, world_size=here.size)
    except RuntimeError as error:
        raise ConnectionError(
            f"this process has not found the others ({str(error).splitlines()[0]}); check that all were started and "
            "that MASTER_ADDR and MASTER_PORT can be reached from here"
        ) from None
    _connection["attendance"] = here
    atexit.register(_disconnect)


def _disconnect() -> None:
    _connection.clear()
    if dist.is_initialized():
        dist.destroy_process_group()


def _words(error: Exception | None) -> str | None:
    """What an error says; its name if it says nothing."""
    return None if error is None else str(error) or type(error).__name__


def _flag(wish: bool, like: Tensor) -> Tensor:
    return torch.full((1,), float(wish), dtype=torch.float64, device=like.device)


def _parted(flat: Tensor, like: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Numbers in the shapes and types of these."""
    parts = flat[: sum(value.numel() for value in like)].split([value.numel() for value in like])
    return tuple(part.reshape(value.shape).to(value.dtype) for part, value in zip(parts, like, strict=True))
