"""The policy and the pool in a simulated server, whatever befalls it."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize
from hypothesis.stateful import invariant
from hypothesis.stateful import rule
from hypothesis.stateful import RuleBasedStateMachine

from flask_prefork.ipc.states import Event
from flask_prefork.ipc.states import State

from .policy_world import make
from .policy_world import Server


class Machine(RuleBasedStateMachine):
    """Pool and policy together, with work and deaths at any time."""

    @initialize(
        min_idle=st.integers(1, 4),
        more_idle=st.integers(0, 4),
        min_workers=st.integers(1, 6),
        more=st.integers(0, 6),
    )
    def begin(self, min_idle: int, more_idle: int, min_workers: int, more: int) -> None:
        most = max(min_idle, min_workers) + more
        policy = make(min_idle, min_idle + more_idle, min_workers, most)
        self.server = Server(policy)

    @rule(count=st.integers(1, 12), duration=st.floats(0.0, 20.0))
    def load(self, count: int, duration: float) -> None:
        for _ in range(count):
            self.server.arrive(self.server.now, duration)
        self.server.run(self.server.now)

    @rule(seconds=st.sampled_from([0.0, 0.05, 0.5, 5.0, 30.0]))
    def wait(self, seconds: float) -> None:
        self.server.run(self.server.now + seconds)

    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        workers = list(self.server.pool)
        if workers:
            worker = data.draw(st.sampled_from(workers))
            if worker.state is State.STARTING:
                self.server.policy.failed(self.server.now)
            self.server.pool.report(worker, Event.EXIT, self.server.now)
            self.server.step()

    @rule(step=st.sampled_from([1, -1]))
    def adjust(self, step: int) -> None:
        self.server.policy.adjust(step)
        self.server.step()

    @invariant()
    def within_limits(self) -> None:
        if hasattr(self, "server"):
            assert len(self.server.pool) <= self.server.policy.max_workers

    @invariant()
    def nobody_waits_while_somebody_is_idle(self) -> None:
        if hasattr(self, "server"):
            assert not (self.server.durations and self.server.pool.idle)

    def teardown(self) -> None:
        """Left alone it comes to rest, with as many idle as wanted."""
        if not hasattr(self, "server"):
            return
        server, policy = self.server, self.server.policy
        # Long enough for all that can be asked of a single worker.
        server.run(server.now + 12_000.0)
        assert not server.durations
        total = len(server.pool)
        assert total >= min(policy.max_workers, policy.min_workers)
        assert server.pool.idle == total
        assert min(policy.min_idle, policy.max_workers) <= total
        assert total <= max(policy.max_idle, policy.min_workers)


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
