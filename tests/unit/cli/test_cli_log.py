"""What the log of a running balancer shows, and what it does not."""

from __future__ import annotations

import logging

import pytest

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
