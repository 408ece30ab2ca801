"""Run a suite: all trials of all rounds. Each result is written at once."""

from __future__ import annotations

import time
import typing as t

from lab import Lab
from load import LoadError
from machine import machine
from measured_code import code
from process import StartError
from progress import Progress
from progress import schedule
from results import Meta
from results import Outcome
from results import Results
from results import Store
from results import today
from results import Trial
from suites.suite import Options
from suites.suite import Suite

NOT_MEASURED = ("cache", "command", "out", "peers_env", "resume", "smoke", "suite")
"""Options that may be others when a run is resumed."""


def expected(suite: Suite, options: Options) -> float:
    """Seconds that a whole run should take, if all servers take part."""
    trials = schedule(options.rounds, suite.cases(options), suite.shared)
    return sum(suite.cost(trial, options) for trial in trials)


def run(
    suite: Suite,
    options: Options,
    store: Store,
    say: t.Callable[[str], None],
    later: float = 0.0,
) -> Results:
    """Run what isn't there yet.

    :param options: The command line's, all its words in ``command``.
    :param store: Where results are kept.
    :param say: Called with a line about what is done.
    :param later: Seconds that what comes after this suite should take.
    :raises ResumeError: What is there was made otherwise.
    :raises LoadError: wrk isn't installed.
    :raises KeyboardInterrupt: What was measured until then is kept.
    """
    lab = Lab(suite, options, say)
    absent = lab.prepare(say)
    chosen = {k: v for k, v in vars(options).items() if k not in NOT_MEASURED}
    meta = Meta(
        *(options.command, chosen, machine(), lab.versions()),
        *(today(), *code(), lab.commands()),
    )
    results = store.resume(meta) if options.resume else store.begin(meta)
    lab.results = results
    results.absent.clear()

    for name, why in absent.items():
        say(f"{name} is left out: {why}")
        store.leave_out(results, name, why)

    trials = [
        trial
        for trial in schedule(options.rounds, suite.cases(options), suite.shared)
        if trial.contender not in absent
    ]
    costs = {trial: suite.cost(trial, options) for trial in trials}
    progress = Progress(costs, later)
    there = [one for one in trials if one in results.outcomes]

    for trial in there:
        if results.outcomes[trial].figures:
            progress.done(trial)

    for trial in trials:
        if trial not in results.outcomes or not results.outcomes[trial].figures:
            say(progress.line(trial))
            began = time.monotonic()
            outcome = _measured(suite, trial, lab)
            store.add(results, outcome)
            progress.done(trial, time.monotonic() - began)
            say(f"    {outcome.failed or 'done'}")

    return results


def _measured(suite: Suite, trial: Trial, lab: Lab) -> Outcome:
    try:
        return Outcome(trial, tuple(suite.measure(trial, lab)))
    except (StartError, LoadError) as error:
        return Outcome(trial, failed=str(error))
