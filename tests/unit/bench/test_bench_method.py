"""What the bench concludes from its bursts."""

import pytest
from bench import method
from bench.method import Burst


@pytest.mark.parametrize("others", [["a"], ["a", "b"], ["a", "b", "c"], list("abcdefgh")])
@pytest.mark.parametrize("round_number", range(5))
def test_every_peer_runs_once_a_round_and_right_beside_the_anchor(others, round_number):
    sequence = method.order("us", others, round_number)
    assert sorted(name for name in sequence if name != "us") == sorted(others)
    for position, name in enumerate(sequence):
        if name != "us":
            assert "us" in (sequence[max(position - 1, 0)], sequence[min(position + 1, len(sequence) - 1)])


def test_over_the_rounds_a_peer_runs_before_the_anchor_and_after_it():
    sides = set()
    for round_number in range(4):
        sequence = method.order("us", ["a", "b", "c"], round_number)
        position = sequence.index("b")
        if position and sequence[position - 1] == "us":
            sides.add("after")
        if sequence[position + 1 : position + 2] == ["us"]:
            sides.add("before")
    assert sides == {"before", "after"}


def test_a_machine_that_slows_down_between_the_pairs_changes_no_ratio():
    """The two pairs ran at different speeds of the machine; each peer is compared with its own neighbour only."""
    bursts = [Burst("a", 90), Burst("us", 100), Burst("us", 50), Burst("b", 55)]
    assert method.neighbour_ratios("us", bursts) == pytest.approx({"us": 1.0, "a": 0.9, "b": 1.1})


def test_two_anchor_bursts_beside_a_peer_count_alike():
    bursts = [Burst("us", 100), Burst("a", 200), Burst("us", 400)]
    assert method.neighbour_ratios("us", bursts)["a"] == pytest.approx(1.0)


def test_a_failed_burst_gives_no_ratio_and_a_failed_anchor_none_to_its_neighbours():
    bursts = [Burst("us", None), Burst("a", 90), Burst("b", None), Burst("us", 100), Burst("c", 120)]
    assert method.neighbour_ratios("us", bursts) == pytest.approx({"us": 1.0, "c": 1.2})


def test_the_best_is_chosen_by_the_median_and_not_by_one_lucky_round():
    rounds = [{"a": 1.0, "b": 0.9}, {"a": 1.0, "b": 9.0}, {"a": 1.0, "b": 0.9}]
    assert method.best(rounds, ["a", "b"]) == "a"
    assert method.best(rounds, ["nobody"]) is None


def test_ratios_are_taken_within_a_round_before_the_median():
    rounds = [{"us": 1.0, "best": 2.0}, {"us": 1.0, "best": 0.5}, {"us": 1.0, "best": 1.0}, {"us": 1.0}]
    ratio = method.relative_to("best", rounds)["us"]
    assert (ratio.low, ratio.median, ratio.high, ratio.rounds) == (0.5, 1.0, 2.0, 3)
