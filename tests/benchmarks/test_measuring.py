"""Rounds, medians, ratios and budgets, by a clock that the calls themselves move."""

import measuring
import pytest
from measuring import Budget, Contestant, Prepared, Result, compare, find_ratio


class FakeClock:
    def __init__(self):
        self.now = 0.0
        self.log = []

    def __call__(self):
        return self.now

    def contestant(self, name, *seconds, build=0.0, error=None, **options):
        """Takes `seconds` per call, one after another, the last for ever; `build` is the time of its preparation."""
        left = list(seconds)

        def run(calls):
            self.log.append((name, calls))
            self.now += calls * (left.pop(0) if len(left) > 1 else left[0])

        def prepare():
            self.now += build
            if error is not None:
                raise error
            return Prepared(run, parameters=10, flops=100.0)

        return Contestant(name, prepare, **options)


@pytest.fixture
def clock():
    return FakeClock()


def measured(clock, *contestants, rounds=3, seconds=0.0, budget=0.0):
    return compare(contestants, rounds, seconds, Budget(budget, clock), clock=clock)


def test_the_median_and_the_spread_leave_out_the_warm_up(clock):
    """The first call compiles, the second tells how long one takes; then come the rounds."""
    (result,) = measured(clock, clock.contestant("a", 50.0, 9.0, 3.0, 1.0, 2.0), rounds=3)
    assert result.seconds == (3.0, 1.0, 2.0)
    assert (result.median, result.spread) == (2.0, (1.0, 3.0))
    assert result.parameters == 10
    assert result.flops == 100.0


def test_the_preparation_ends_with_the_first_call(clock):
    (result,) = measured(clock, clock.contestant("a", 50.0, 1.0, build=7.0))
    assert result.preparation == 57.0


def test_all_take_turns_and_every_second_round_runs_backwards(clock):
    measured(clock, clock.contestant("a", 1.0), clock.contestant("b", 1.0), rounds=3)
    turns = [name for name, _ in clock.log[4:]]
    assert turns == ["a", "b", "b", "a", "a", "b"]


def test_a_turn_makes_as_many_calls_as_take_its_time(clock):
    results = measured(clock, clock.contestant("a", 0.3), clock.contestant("b", 5.0), seconds=1.0, rounds=1)
    assert clock.log[4:] == [("a", 4), ("b", 1)]
    assert [result.seconds[0] for result in results] == pytest.approx([0.3, 5.0])


def test_a_ratio_compares_the_same_rounds():
    """Twice as slow in each round, although the machine slows down threefold on the way."""
    ours = Result("a", seconds=(1.0, 3.0, 9.0))
    theirs = Result("b", seconds=(2.0, 6.0, 18.0))
    assert find_ratio(theirs, ours) == 2.0
    assert find_ratio(ours, theirs) == 0.5


def test_a_rival_that_fails_is_a_row_and_ours_an_error(clock):
    failing = clock.contestant("b", 1.0, error=OSError("no compiler\nmore text"))
    results = measured(clock, clock.contestant("a", 1.0), failing)
    assert (results[1].problem, results[1].seconds) == ("no compiler", ())
    assert len(results[0].seconds) == 3
    ours = clock.contestant("a", 1.0, error=OSError("no memory"), is_rival=False)
    with pytest.raises(OSError, match="no memory"):
        measured(clock, ours)


def test_what_does_not_fit_into_the_budget_is_left_out(clock):
    results = measured(clock, clock.contestant("a", 1.0, build=70.0), clock.contestant("b", 1.0), budget=100.0)
    assert results[1].problem == "left out: 72 of 100 s were over"
    assert len(results[0].seconds) == 3
    results = measured(clock, clock.contestant("a", 1.0, build=50.0), clock.contestant("b", 1.0), budget=100.0)
    assert [len(result.seconds) for result in results] == [3, 3]


def test_a_round_that_does_not_fit_is_not_begun_except_the_first(clock):
    (result,) = measured(clock, clock.contestant("a", 10.0), rounds=9, budget=55.0)
    assert len(result.seconds) == 3  # 20 s of warm-up; 5 s are left after three rounds
    (result,) = measured(clock, clock.contestant("a", 10.0), rounds=9, budget=5.0)
    assert len(result.seconds) == 1


def test_without_a_budget_nothing_is_late(clock):
    budget = Budget(0.0, clock)
    clock.now = 1e9
    assert not budget.is_late()
    assert budget.left == measuring.math.inf
