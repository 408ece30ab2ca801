"""Requests: when they arrive and how long each takes. All from a seed.

All servers of a case get the same requests (common random numbers), so a difference
between two servers isn't due to chance.
"""

from __future__ import annotations

import math
import random
import typing as t
from collections.abc import Callable

Rate = Callable[[float], float]
"""Requests a second, at a time."""

Arrivals = Callable[[random.Random], list[float]]
"""Times of arrival, ascending."""

Service = Callable[[random.Random], float]
"""Seconds of one request."""


class Traffic(t.NamedTuple):
    """What the clients of one run want."""

    arrivals: list[float]
    services: list[float]


def make(arrivals: Arrivals, service: Service, seed: int) -> Traffic:
    """Draw all requests of a run.

    Arrivals and services have a generator each: another service time leaves the
    arrivals as they are.
    """
    times = arrivals(random.Random(f"arrivals {seed}"))
    rng = random.Random(f"services {seed}")
    return Traffic(times, [service(rng) for _ in times])


# When they arrive


def poisson(rate: float, seconds: float) -> Arrivals:
    """Clients that know nothing of each other."""
    return varying(lambda now: rate, rate, seconds)


def varying(rate: Rate, peak: float, seconds: float) -> Arrivals:
    """A Poisson process whose rate changes, by thinning one of the peak's rate."""

    def draw(rng: random.Random) -> list[float]:
        times = []
        now = rng.expovariate(peak)
        while now < seconds:
            if rng.random() * peak < rate(now):
                times.append(now)
            now += rng.expovariate(peak)
        return times

    return draw


def bursts(rate: float, every: float, size: int, seconds: float) -> Arrivals:
    """A quiet stream, and now and then many at once: a page with all its parts."""

    def draw(rng: random.Random) -> list[float]:
        times = poisson(rate, seconds)(rng)
        now = rng.expovariate(1 / every)
        while now < seconds:
            times += [now] * size
            now += rng.expovariate(1 / every)
        return sorted(times)

    return draw


def day(low: float, high: float, period: float) -> Rate:
    """Night and noon."""
    middle, half = (high + low) / 2, (high - low) / 2
    return lambda now: middle - half * math.cos(math.tau * now / period)


def crowd(rate: float, peak: float, begin: float, decay: float) -> Rate:
    """A link on a popular page: all at once, then fewer and fewer.

    :param decay: seconds after which 1/e of the crowd is left.
    """

    def at(now: float) -> float:
        if now < begin:
            return rate
        return rate + (peak - rate) * math.exp((begin - now) / decay)

    return at


# How long each takes


def constant(mean: float) -> Service:
    return lambda rng: mean


def exponential(mean: float) -> Service:
    return lambda rng: rng.expovariate(1 / mean)


def lognormal(mean: float, sigma: float) -> Service:
    """Most are fast; with sigma 1.5, one in a hundred takes eleven times the mean."""
    mu = math.log(mean) - sigma**2 / 2
    return lambda rng: rng.lognormvariate(mu, sigma)


def pareto(mean: float, alpha: float) -> Service:
    """The heavy tail: with alpha 2 or less the variance has no bound."""
    least = mean * (alpha - 1) / alpha
    return lambda rng: least * rng.paretovariate(alpha)
