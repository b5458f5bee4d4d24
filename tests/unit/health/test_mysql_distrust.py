"""TLS that fails is tried again ever more seldom: each time is a connect error to the server."""

from __future__ import annotations

from easyproxy.health.checks.mysql.distrust import FIRST_PAUSE_S, LONGEST_PAUSE_S, Distrust


def test_a_failure_is_known_until_its_time_is_over():
    distrust = Distrust()
    distrust.failed("a", "TLS failed", 100.0, is_about_certificate=False)
    assert distrust.of("a", 100.0 + FIRST_PAUSE_S - 1).words == "TLS failed"
    assert distrust.of("a", 100.0 + FIRST_PAUSE_S) is None
    assert distrust.of("b", 100.0) is None


def test_the_pauses_double_so_that_a_day_has_few_failures():
    distrust, now, count = Distrust(), 0.0, 0
    while now < 24 * 3600:
        if distrust.of("a", now) is None:
            distrust.failed("a", "TLS failed", now, is_about_certificate=False)
            count += 1
        now += 1
    assert count < 35  # max_connect_errors is 100 unless somebody has changed it


def test_what_has_worked_is_forgotten():
    distrust = Distrust()
    distrust.failed("a", "TLS failed", 0.0, is_about_certificate=False)
    distrust.worked("a")
    assert distrust.of("a", 0.0) is None


def test_a_refused_certificate_is_verified_again_only_when_it_is_another():
    distrust = Distrust()
    distrust.failed("a", "expired", 0.0, is_about_certificate=True)
    assert [distrust.presents("a", b"one") for _ in range(3)] == [True, True, True]
    assert distrust.of("a", LONGEST_PAUSE_S - 1) is not None
    assert not distrust.presents("a", b"two")
    assert distrust.of("a", 1.0) is None


def test_it_remembers_a_bounded_number():
    distrust = Distrust()
    for number in range(5000):
        distrust.failed(str(number), "x", 0.0, is_about_certificate=False)
    assert len(distrust._failures) <= 1000
