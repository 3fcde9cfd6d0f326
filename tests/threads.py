"""A team of threads in one process: as quick as a test wants it, and as strict as processes are."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from sparsentropy.team import AbstractTeam

PATIENCE = 60  # seconds until a thread gives the others up


class Threads(AbstractTeam):
    """One thread of several that share a board."""

    def __init__(self, rank, size, barrier, board):
        self.rank, self.size, self.barrier, self.board = rank, size, barrier, board

    def _exchanged(self, value):
        self.board[self.rank] = value
        self.barrier.wait(PATIENCE)
        found = list(self.board)
        self.barrier.wait(PATIENCE)
        return found

    def sum(self, *values):
        kinds = {tuple((tuple(value.shape), value.dtype) for value in told) for told in self._exchanged(values)}
        assert len(kinds) == 1, f"not the same is summed in all threads: {kinds}"
        return tuple(sum(parts[1:], parts[0]) for parts in zip(*self._exchanged(values), strict=True))

    def agreed(self, *values):
        kinds = {tuple((tuple(value.shape), value.dtype) for value in told) for told in self._exchanged(values)}
        assert len(kinds) == 1, f"not the same is agreed on in all threads: {kinds}"
        return tuple(value.clone() for value in self._exchanged(values)[0])

    def told(self, value):
        return json.loads(json.dumps(self._exchanged(value)))

    def gathered(self, value, place):
        del place
        return self.told(value)

    def parallel(self, module, *, spares):
        raise NotImplementedError("gradients are averaged by processes")

    @contextmanager
    def attentive(self):
        yield


def together(size, work):
    """What `work` gives back in each of so many threads, each with its team; what any of them raises."""
    barrier, board = threading.Barrier(size), [None] * size

    def one(rank):
        try:
            return work(Threads(rank, size, barrier, board))
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        running = [pool.submit(one, rank) for rank in range(size)]
    errors = [future.exception() for future in running]
    for error in sorted(filter(None, errors), key=lambda error: isinstance(error, threading.BrokenBarrierError)):
        raise error
    return [future.result() for future in running]
