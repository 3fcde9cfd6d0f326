"""How this process was started: alone, or as one of several, as the environment tells.

torchrun, and whatever else starts several processes for torch, sets RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT.
Without all four, or with a WORLD_SIZE of 1, a process works alone, whatever else was left in the environment. Nothing
that takes long to import is needed here, so a command can ask at once.
"""

import os

NAMES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_ALONE = "start all processes with torchrun, or unset WORLD_SIZE to work with one"


def is_complete() -> bool:
    """Whether the environment says where the processes meet, how many there are, and which one this is."""
    return all(os.environ.get(name) for name in NAMES)


def world_size() -> int:
    """Number of processes; 1 unless RANK and WORLD_SIZE say otherwise.

    Raises
    ------
    ValueError
        If WORLD_SIZE is not a positive integer.
    """
    return _number("WORLD_SIZE", 1) if os.environ.get("RANK") and os.environ.get("WORLD_SIZE") else 1


def rank() -> int:
    """Which process this is, from 0; a process that works alone is the first one.

    Raises
    ------
    ValueError
        If RANK is not below WORLD_SIZE, or one of them is not a number.

    Examples
    --------
    >>> rank()
    0
    """
    size = world_size()
    if size == 1:
        return 0
    found = _number("RANK", 0)
    if found >= size:
        raise ValueError(f"RANK={found} must be below WORLD_SIZE={size} in the environment: {_ALONE}")
    return found


def local_rank() -> int:
    """Which process of its machine this is, from 0."""
    return _number("LOCAL_RANK", 0)


def local_world_size() -> int:
    """How many processes this machine has."""
    return _number("LOCAL_WORLD_SIZE", 1)


def address() -> tuple[str, int]:
    """Host and port at which the first process, or torchrun, can be reached.

    Raises
    ------
    ValueError
        If they are not set, or the port is none.
    """
    missing = [name for name in NAMES if not os.environ.get(name)]
    if missing:
        raise ValueError(
            f"the environment says that there are {world_size()} processes, but {' and '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not set, so they cannot find each other: {_ALONE}"
        )
    port = _number("MASTER_PORT", 1)
    if port >= 2**16:
        raise ValueError(f"MASTER_PORT={port} in the environment is no port, which is below 65536: {_ALONE}")
    return os.environ["MASTER_ADDR"], port


def _number(name: str, least: int) -> int:
    """An integer from the environment; the least where there is none."""
    text = os.environ.get(name) or str(least)
    try:
        found = int(text)
    except ValueError:
        found = least - 1
    if found < least:
        raise ValueError(f"{name}={text!r} in the environment must be an integer of at least {least}: {_ALONE}")
    return found
