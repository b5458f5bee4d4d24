"""What the commands that change backends say of it."""

from __future__ import annotations

import pytest

from easyproxy.cli.backends import _standing

ANSWER = {"action": "drain", "at": 100.0, "deadline": 0.0}


@pytest.mark.parametrize(
    ("pool", "answer", "sessions", "said"),
    [
        ({}, {}, 0, []),
        ({}, {}, 1, ["1 established session goes on"]),
        ({}, {"deadline": 400.0}, 2, ["2 established sessions go on, for 5 min at most"]),
        ({"drain_deadline_s": 60.0}, {"action": "remove"}, 2, ["2 established sessions go on, for 1 min at most"]),
        ({"drain": "between_transactions"}, {}, 2, ["2 established sessions each end between two transactions"]),
        ({"drain": "between_transactions"}, {}, 1, ["1 established session ends between two transactions"]),
        ({}, {"action": "weight"}, 2, []),
    ],
)  # fmt: skip
def test_it_is_said_what_becomes_of_the_sessions_that_stand(pool, answer, sessions, said):
    whole = {"drain": "sessions_end", "drain_deadline_s": 0.0} | pool
    assert list(_standing(ANSWER | answer, whole, sessions)) == said
