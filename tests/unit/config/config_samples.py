"""Small configurations that the tests of this folder change in one place."""

from __future__ import annotations

import copy

import pytest

from easyproxy.config.load import from_dict, loads
from easyproxy.errors import ConfigError


def config_with(*, listener=None, pool=None, backend=None, check=None, load=False, **top):
    """Make raw data with a setting added somewhere; with ``load`` make the configuration itself."""
    raw = {
        "listeners": [{"bind": "127.0.0.1:9527", "pool": "db", **(listener or {})}],
        "pools": {"db": {"backends": [{"address": "10.0.0.1:3306", **(backend or {})}], **(pool or {})}},
        **top,
    }
    if check is not None:
        raw["pools"]["db"]["check"] = check
    return from_dict(raw) if load else copy.deepcopy(raw)


def problems_of(raw, **options):
    """Return the problems of wrong data."""
    with pytest.raises(ConfigError) as caught:
        from_dict(raw, **options)
    return caught.value.problems


def message_for(raw, **options):
    """Return the one problem of wrong data as ``path: message``."""
    problems = problems_of(raw, **options)
    assert len(problems) == 1, [str(problem) for problem in problems]
    return str(problems[0])


def refusals(text, form="yaml", name="f", **options):
    """Return the problems of a wrong text as lines."""
    with pytest.raises(ConfigError) as caught:
        loads(text, form, name, **options)
    return [str(problem) for problem in caught.value.problems]
