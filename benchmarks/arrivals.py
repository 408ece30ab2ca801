"""The times at which requests arrive, fixed before the first is sent. Pure."""

from __future__ import annotations

import random


def poisson(rate: float, seconds: float, seed: int) -> list[float]:
    """Arrivals of many users who don't know of each other, in seconds from the
    start. The same seed is the same arrivals, so that all servers see the same.
    """
    rng = random.Random(seed)
    moments = []
    moment = rng.expovariate(rate)

    while moment < seconds:
        moments.append(moment)
        moment += rng.expovariate(rate)

    return moments
