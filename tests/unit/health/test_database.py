"""What the checks of databases have in common: how a finding reads."""

from __future__ import annotations

from easyproxy.engine.seam import Facts
from easyproxy.health.checks.database import alive, known


def test_a_primary_says_so_with_its_version():
    assert known(Facts("primary", version="10.11.19-MariaDB")).detail == "primary, 10.11.19-MariaDB"


def test_a_replica_says_how_far_it_is_behind_and_why():
    facts = Facts("replica", float("inf"), "8.4.3")
    assert known(facts, "the SQL thread is stopped").detail == (
        "replica, does not follow its primary: the SQL thread is stopped, 8.4.3"
    )


def test_one_that_does_not_let_us_in_is_alive_and_its_role_is_not_known():
    finding = alive("8.4.3", "access denied\x1b[31m (error 1045)")
    assert finding.detail == "alive, role unknown: access denied [31m (error 1045), 8.4.3"
    assert finding.facts == Facts(version="8.4.3", notes=(("login", "access denied [31m (error 1045)"),))
