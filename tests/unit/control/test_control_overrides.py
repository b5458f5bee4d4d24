"""What operators lay over a file: how it takes effect, and the three-way meeting with another file."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from easyproxy.config.load import from_dict
from easyproxy.control import overrides as o
from easyproxy.control.events import Kind
from easyproxy.control.operations import Action, Author, Override, RefusedError
from easyproxy.errors import ConfigError

ANN = Author("ann", "kernel update")
ADDRESS = {name: f"10.0.0.{number}:1" for number, name in enumerate("abcdef", 1)}


def backend(name: str, **fields) -> dict[str, object]:
    return {"name": name, "address": ADDRESS[name], **fields}


def filed(*backends, pool: str = "p"):
    made = [backend(one) if isinstance(one, str) else one for one in backends or ("a", "b")]
    return from_dict(
        {"listeners": [{"bind": "127.0.0.1:9000", "pool": pool}], "pools": {pool: {"backends": made}}}
    )


def laid(name: str, action: Action, value=None, *, on=None, number: int = 1, **fields) -> Override:
    """Make an override as it is made against the file ``on``."""
    base = o.said(on or filed(), f"p/{name}", action)
    return Override(f"o{number}", f"p/{name}", action, ANN, at=1.0, value=value, base=base, **fields)


def names(config) -> list[str]:
    return [one.name for one in config.pools["p"].backends]


def meeting(file, *overrides):
    met = o.meet(file, overrides)
    return met.overrides, [note.kind for note in met.notes]


# -- taking effect


def test_without_overrides_the_file_is_in_force_as_it_is():
    file = filed()
    assert o.effective(file, ()) is file
    assert o.effective(file, (laid("a", Action.DRAIN),)) is file, "a stance changes no configuration"


def test_weights_additions_and_removals_make_another_configuration():
    file = filed("a", "b")
    made = o.effective(
        file,
        (
            laid("a", Action.WEIGHT, 7),
            laid("c", Action.ADD, backend("c", max_sessions=9), number=2),
            laid("c", Action.WEIGHT, 4, number=3),
            laid("b", Action.REMOVE, number=4),
        ),
    )
    assert [(one.name, one.weight, one.max_sessions) for one in made.pools["p"].backends] == [
        ("a", 7, 0),
        ("c", 4, 9),
    ]
    assert names(file) == ["a", "b"], "the file's own is untouched"


def test_what_contradicts_itself_is_refused_with_its_reason():
    twin = laid("c", Action.ADD, {"name": "c", "address": ADDRESS["a"]})
    with pytest.raises(ConfigError, match="already in this pool"):
        o.effective(filed(), (twin,))
    with pytest.raises(ConfigError, match="leave no backend"):
        o.effective(filed("a"), (laid("a", Action.REMOVE),))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0, "drain the backend"),
        (257, "out of range"),
        (True, "not a whole number"),
        ("3", "without quotes"),
        (None, "not a whole number"),
        (1.5, "not a whole number"),
    ],
)
def test_a_weight_is_what_the_schema_allows(value, message):
    with pytest.raises(RefusedError, match=message):
        o.read_weight(value)
    assert o.read_weight(256) == 256


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("nowhere", "has no port"),
        ({"adress": "10.0.0.1:1"}, "did you mean address"),
        ({"address": "10.0.0.1:1", "weight": 0, "backup": "yes"}, "weight: .*; backup: "),
        (5, "mapping"),
        (None, "mapping"),
    ],
)
def test_a_backend_that_is_wrong_is_refused_with_every_error_in_words(value, message):
    with pytest.raises(RefusedError, match=message) as refused:
        o.read_backend("p", value)
    assert "pools.p" not in str(refused.value)


def test_a_backend_has_one_override_of_each_kind():
    drain, weight, removal = (
        laid("a", Action.DRAIN),
        laid("a", Action.WEIGHT, 3, number=2),
        laid("a", Action.REMOVE, number=3),
    )
    laid_all = o.lay(o.lay(o.lay((), drain), weight), removal)
    assert laid_all == (drain, weight, removal)
    maintenance = laid("a", Action.MAINTENANCE, number=4)
    assert o.replaced(laid_all, maintenance) == drain
    assert o.lay(laid_all, maintenance) == (weight, removal, maintenance)
    assert o.replaced(laid_all, laid("b", Action.DRAIN)) is None
    assert o.stances(o.lay(laid_all, maintenance)) == {"p/a": maintenance}


def test_those_whose_time_is_over_expire():
    early, late, never = (
        replace(laid("a", Action.DRAIN), until=10.0),
        replace(laid("b", Action.DRAIN), until=11.0),
        laid("c", Action.DRAIN),
    )
    assert o.expired((early, late, never), 10.0) == (early,)


def test_overrides_that_need_each_other_go_with_the_file_in_any_order():
    """All backends of the file were replaced by another one; it was added after the first removal."""
    away = laid("a", Action.REMOVE), laid("b", Action.REMOVE, number=2)
    added = laid("c", Action.ADD, backend("c"), number=3)
    for overrides in permutations((*away, added)):
        assert o.fitting(filed(), overrides) == (overrides, ())
    [alone], [(refused, why)] = o.fitting(filed(), away)
    assert (alone, refused) == away
    assert "at least one is needed" in why


def test_what_does_not_go_with_the_file_is_parted_from_what_does():
    broken = laid("d", Action.ADD, {"name": "other"}, number=9)
    renamed = laid("c", Action.ADD, {"name": "c", "address": ADDRESS["a"]}, number=2)
    away = laid("a", Action.REMOVE, number=3)
    kept, [(refused, _why)] = o.fitting(filed(), (broken, renamed, away))
    assert (kept, refused) == ((renamed, away), broken)


# -- meeting a file


def test_a_file_that_says_the_same_leaves_everything_as_it_is():
    overrides = (
        laid("a", Action.WEIGHT, 5),
        laid("b", Action.DRAIN, number=2),
        laid("c", Action.ADD, backend("c"), number=3),
        laid("c", Action.MAINTENANCE, number=4),
    )
    assert meeting(filed(), *overrides) == (overrides, [])


def test_what_the_file_now_says_itself_is_fulfilled():
    weight = laid("a", Action.WEIGHT, 5)
    added = laid("c", Action.ADD, backend("c", weight=2), number=2)
    removed = laid("b", Action.REMOVE, number=3)
    file = filed(backend("a", weight=5), backend("c", weight=2))
    assert meeting(file, weight, added, removed) == ((), [Kind.OVERRIDE_FULFILLED] * 3)


@pytest.mark.parametrize(
    ("override", "file", "words"),
    [
        (laid("a", Action.WEIGHT, 5), filed(backend("a", weight=3), "b"), ("1", "3", "5")),
        (
            laid("c", Action.ADD, backend("c")),
            filed("a", "b", backend("c", weight=9)),
            ("nothing", "weight 9", ADDRESS["c"]),
        ),
        (
            laid("b", Action.REMOVE),
            filed("a", backend("b", max_sessions=5)),
            ("max_sessions 5", ADDRESS["b"], "nothing"),
        ),
    ],
    ids=["weight", "add", "remove"],
)
def test_when_both_have_changed_the_override_stays_in_conflict_with_every_value_in_words(
    override, file, words
):
    [kept], kinds = meeting(file, override)
    assert kinds == [Kind.OVERRIDE_CONFLICT]
    assert replace(kept, conflict="") == override
    assert all(word in kept.conflict for word in words), kept.conflict
    assert meeting(file, kept) == ((kept,), []), "it is told once"
    [settled], kinds = meeting(filed(), kept)
    assert (settled, kinds) == (override, [Kind.OVERRIDE_SETTLED])


def test_a_conflict_does_not_win_silently_nor_lose_silently():
    override = laid("a", Action.WEIGHT, 5)
    file = filed(backend("a", weight=3), "b")
    [kept], _ = meeting(file, override)
    assert o.effective(file, (kept,)).pools["p"].backends[0].weight == 5


@pytest.mark.parametrize("action", [Action.DRAIN, Action.MAINTENANCE, Action.WEIGHT])
def test_what_holds_a_backend_that_is_gone_dissolves(action):
    override = laid("b", action, 5 if action is Action.WEIGHT else None)
    met = o.meet(filed("a"), (override,))
    assert met.overrides == ()
    [note] = met.notes
    assert (note.kind, note.override) == (Kind.OVERRIDE_DISSOLVED, override)
    assert "p/b" in note.text
    assert "ann" in note.text


def test_what_holds_a_removed_backend_waits_for_its_return():
    overrides = (laid("b", Action.REMOVE), laid("b", Action.DRAIN, number=2))
    assert meeting(filed(), *overrides) == (overrides, [])
    assert meeting(filed(), overrides[1]) == (overrides[1:], [])


def test_an_addition_whose_address_the_file_has_under_another_name_dissolves_with_what_holds_it():
    added = laid("c", Action.ADD, backend("c"))
    drain = laid("c", Action.DRAIN, number=2)
    file = filed("a", {"name": "other", "address": ADDRESS["c"]})
    met = o.meet(file, (added, drain))
    assert met.overrides == ()
    assert [note.kind for note in met.notes] == [Kind.OVERRIDE_DISSOLVED] * 2
    assert "p/other" in met.notes[0].text
    removed = Override("o3", "p/other", Action.REMOVE, ANN, 1.0, base=o.said(file, "p/other", Action.REMOVE))
    assert meeting(file, added, removed)[0] == (added, removed), (
        "the twin is taken away, so there is no contradiction"
    )
    assert o.meet(file, (added,), is_new_file=False).overrides == (added,)


def test_what_is_overdue_stays_in_conflict_while_the_file_says_what_it_said():
    override = laid("b", Action.REMOVE, until=10.0, conflict="it should have ended, but without it: ...")
    assert o.meet(filed(), (override,), now=11.0) == o.Met((override,))
    settled = o.meet(filed(), (override,), now=9.0)
    assert (settled.overrides[0].conflict, [note.kind for note in settled.notes]) == (
        "",
        [Kind.OVERRIDE_SETTLED],
    )


def test_an_addition_to_a_pool_that_is_gone_dissolves():
    assert meeting(filed(pool="q"), laid("c", Action.ADD, backend("c"))) == ((), [Kind.OVERRIDE_DISSOLVED])


def test_a_backend_that_was_added_and_is_then_filed_keeps_its_drain():
    added, drain = laid("c", Action.ADD, backend("c")), laid("c", Action.DRAIN, number=2)
    assert meeting(filed("a", "c"), added, drain) == ((drain,), [Kind.OVERRIDE_FULFILLED])


def test_settings_of_a_later_version_are_no_conflict_by_themselves():
    """A base that is written with its defaults is the same as one without."""
    override = laid("b", Action.REMOVE)
    full = {**override.base, "weight": 1, "max_sessions": 0, "backup": False}
    assert meeting(filed(), replace(override, base=full))[1] == []


@st.composite
def files(draw):
    chosen = draw(st.lists(st.sampled_from("abcd"), min_size=1, unique=True))
    return filed(*(backend(name, weight=draw(st.integers(1, 3))) for name in chosen))


@st.composite
def histories(draw):
    """A file, and overrides as operators can make them against it."""
    file = draw(files())
    overrides: o.Overrides = ()
    for number in range(draw(st.integers(0, 6))):
        name = draw(st.sampled_from("abcdef"))
        there = f"p/{name}" in o.backends_of(o.effective(file, overrides))
        action = draw(st.sampled_from([one for one in Action if there == (one is not Action.ADD)]))
        value = {
            Action.WEIGHT: draw(st.integers(1, 3)),
            Action.ADD: backend(name, weight=draw(st.integers(1, 3))),
        }
        fresh = laid(name, action, value.get(action), on=file, number=number)
        wanted = o.meet(file, o.lay(overrides, fresh)).overrides
        try:
            o.effective(file, wanted)
        except ConfigError:
            continue
        overrides = wanted
    return file, overrides


@given(histories(), st.lists(files(), min_size=1, max_size=4))
def test_no_override_is_ever_lost_without_a_note_and_none_wins_without_one(history, later):
    _, overrides = history
    for file in later:
        met = o.meet(file, overrides)
        noted = {note.override.id: note.kind for note in met.notes}
        assert len(noted) == len(met.notes), "each is told at most once"
        kept = {one.id: one for one in met.overrides}
        for before in overrides:
            after = kept.get(before.id)
            if after is None:
                assert noted[before.id] in (Kind.OVERRIDE_FULFILLED, Kind.OVERRIDE_DISSOLVED)
                continue
            assert replace(after, conflict="") == replace(before, conflict=""), "only the conflict is marked"
            waits = any(
                one.action is Action.REMOVE and one.backend == before.backend for one in met.overrides
            )
            if before.action in o.STANCES or (waits and before.action is Action.WEIGHT):
                assert before.id not in noted
                continue
            now = o.said(file, before.backend, before.action)
            changed = o._normal("p", now) != o._normal("p", before.base)
            assert bool(after.conflict) == changed
            told = {Kind.OVERRIDE_CONFLICT} if changed else {Kind.OVERRIDE_SETTLED}
            assert noted.get(before.id) in (told if after.conflict != before.conflict else {None})
        assert o.meet(file, met.overrides).notes == (), "what was told is not told again"
        overrides = met.overrides


@given(histories(), files())
def test_what_is_fulfilled_changes_nothing_by_going(history, file):
    _, overrides = history
    met = o.meet(file, overrides)
    gone = [note.override for note in met.notes if note.kind is Kind.OVERRIDE_FULFILLED]
    for override in gone:
        if override.action is Action.REMOVE:
            assert override.backend not in o.backends_of(file)
        else:
            assert o._normal("p", o.said(file, override.backend, override.action)) == o._normal(
                "p", override.value
            )


@given(histories())
def test_against_its_own_file_nothing_happens_to_an_override(history):
    file, overrides = history
    assert o.meet(file, overrides) == o.Met(overrides)
