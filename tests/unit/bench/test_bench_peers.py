"""The peers' configurations as they are checked in."""

import pytest
from bench.peers import TEMPLATES
from bench.peers.install import REQUIREMENTS, requirements
from bench.peers.render import Route, render

_ROUTES = [
    Route("redis", "127.0.0.1", 7001, "127.0.0.2", 6379),
    Route("http", "127.0.0.1", 7002, "127.0.0.2", 80),
]
_WORDS = dict.fromkeys(["cores", "sessions", "descriptors", "folder", "user", "load_module", "splicing"], "1")


@pytest.mark.parametrize("name", [path.name for path in TEMPLATES.glob("*.*") if path.suffix != ".py"])
def test_every_configuration_names_every_route_and_leaves_nothing_to_fill_in(name):
    text = render((TEMPLATES / name).read_text(encoding="utf-8"), _ROUTES, _WORDS)
    assert "$" not in text
    assert "#{" not in text
    for route in _ROUTES:
        assert route.service in text
        if name != "traefik.yaml":  # its routes stand in a file of their own
            assert str(route.backend_port) in text


def test_a_word_that_nobody_gives_is_an_error():
    with pytest.raises(KeyError, match="forgotten"):
        render("$forgotten", [], {})


def test_every_peer_from_pypi_is_pinned_by_version_and_hash():
    pinned = requirements(REQUIREMENTS.read_text(encoding="utf-8"))
    assert len(pinned) == 4
    for requirement in pinned:
        assert "==" in requirement
        assert "--hash=sha256:" in requirement
