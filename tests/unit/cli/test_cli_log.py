"""What the log of a running balancer shows, and what it does not."""

from __future__ import annotations

import logging
import os
import sys

import pytest

from easyproxy.cli import patient
from easyproxy.cli.log import set_up


@pytest.fixture(autouse=True)
def usual_logging():
    """Put logging back as pytest has it."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers, root.level = handlers, level
    logging.getLogger("easyproxy").setLevel(logging.NOTSET)


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_mistake_is_logged_with_its_place_and_without_the_values_of_variables(capsys, form):
    pytest.importorskip("rich")  # which structlog would use, where it is installed
    set_up("info", form)
    token = "a-long-and-" + "secret-token"

    def fail():
        assert token
        raise ValueError("a mistake")

    try:
        fail()
    except ValueError:
        logging.getLogger("easyproxy").exception("it failed")
    said = capsys.readouterr().err
    assert "a mistake" in said
    assert "in fail" in said
    assert token not in said


@pytest.mark.parametrize(("wish", "has_colours"), [("", True), ("1", False)])
def test_a_terminal_gets_colours_unless_they_are_not_wanted(monkeypatch, capsys, wish, has_colours):
    monkeypatch.setenv("NO_COLOR", wish)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    set_up("info", "text")
    logging.getLogger("easyproxy").info("hello")
    assert ("\x1b[" in capsys.readouterr().err) == has_colours


def test_who_reads_slowly_gets_every_line_that_may_wait_and_the_number_of_the_others(monkeypatch):
    monkeypatch.setattr(patient, "MOST_WAITING", 50)
    reading, writing = os.pipe()
    with open(reading, encoding="utf-8") as reader, open(writing, "w", encoding="utf-8") as writer:  # noqa: PTH123
        handler = patient.PatientHandler(writer)
        for number in range(1000):
            handler.handle(logging.makeLogRecord({"msg": f"{number} {'é' * 500}"}))
        lost = handler._lost
        assert 0 < lost < 950
        kept = [reader.readline().split()[0] for _ in range(1000 - lost)]
        assert kept == [str(number) for number in range(1000 - lost)]
        handler.handle(logging.makeLogRecord({"msg": "after"}))
        assert reader.readline() == f"{lost} lines are lost here: nobody has read the log\n"
        assert reader.readline() == "after\n"
