"""Streams named, not shared: one integer, no order, the stated probabilities."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from itscale.errors import OptionError
from itscale.randomness import Seeded, SomeChildren, derive, stream_of, uniforms

seeds = st.integers(0, 2**63 - 1)


def draws(rng, n=20):
    """The next n of 100 equally likely outcomes."""
    return [rng.choose(np.full(100, 0.01)) for _ in range(n)]


@given(seeds)
@settings(max_examples=40, deadline=None)
def test_one_seed_one_sequence(seed):
    """The same seed gives the same draws, another gives others."""
    assert draws(Seeded(seed)) == draws(Seeded(seed))
    assert draws(Seeded(seed)) != draws(Seeded(seed ^ 1))


@given(seeds)
@settings(max_examples=40, deadline=None)
def test_a_child_depends_on_its_name_alone(seed):
    """Neither what the parent drew before nor the order of asking changes a child's draws."""
    fresh, used = Seeded(seed), Seeded(seed)
    draws(used)
    later = [used.child("step", i) for i in (2, 1, 0)][::-1]
    assert [draws(child) for child in later] == [draws(fresh.child("step", i)) for i in range(3)]
    assert draws(fresh.child("a", 1)) != draws(fresh.child("a", 2))
    assert draws(fresh.child("a")) != draws(fresh)


def test_any_integral_number_is_a_seed():
    """NumPy's too, and with the same draws as the plain one, children included; a stream stays itself."""
    for kind in (np.int64, np.uint64, np.uint8):
        assert draws(stream_of(kind(3)).child("a")) == draws(Seeded(3).child("a"))
    stream = Seeded(3)
    assert stream_of(stream) is stream


@pytest.mark.parametrize("seed", [True, 3.0, np.float64(3), "3", None, -1, 2**63, np.int64(-1)], ids=repr)
def test_what_is_no_seed_is_refused(seed):
    """One sentence that ends with what to give."""
    with pytest.raises(OptionError, match=r"; give a whole number from 0 to 2\*\*63 - 1$"):
        stream_of(seed)


def test_names_do_not_run_into_each_other():
    """Label 1 is not label "1", and ("a", "b") is not ("ab",)."""
    assert (
        len({derive(0, 1), derive(0, "1"), derive(0, "a", "b"), derive(0, "ab"), derive(0), derive(1)}) == 6
    )


def test_derived_seeds_never_change():
    """A run's seed must mean the same on every machine and in every version."""
    assert derive(0, "step", 3, 1) == 9035732743041899225
    assert draws(Seeded(7), 5) == [38, 1, 90, 58, 45]


def test_a_stream_named_long_after_its_parents_is_the_same():
    """A seed is derived when it is wanted, however many names deep, and whoever asked before."""
    stream, seed = Seeded(3), 3
    for i in range(5000):
        stream, seed = stream.child("step", i), derive(seed, "step", i)
    assert stream.seed == seed


def test_uniforms_are_splitmix64():
    """The published first outputs for seed 1234567, cut to 53 bits."""
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    ours = uniforms(np.array([1234567], np.uint64), np.arange(3, dtype=np.uint64))
    assert [int(u * 2**53) for u in ours] == [value >> 11 for value in published]


@given(st.lists(st.one_of(st.just(0.0), st.floats(1e-12, 1.0)), min_size=1, max_size=9), seeds)
@settings(max_examples=40, deadline=None)
def test_an_impossible_outcome_is_never_drawn(weights, seed):
    """Zero-probability indices first, last and in between included."""
    if not sum(weights):
        weights[-1] = 1.0
    p = np.array(weights) / sum(weights)
    rng = Seeded(seed)
    assert all(p[rng.choose(p)] > 0 for _ in range(20))


@pytest.mark.parametrize("u", [0.0, 0.25, 0.5, 1 - 2.0**-53])
def test_every_uniform_lands_where_its_mass_is(u, monkeypatch):
    """Outcome k owns [p_1 + .. + p_{k-1}, p_1 + .. + p_k): the ends of the scale included."""
    monkeypatch.setattr("itscale.randomness.uniforms", lambda seeds, counters: np.array([u]))
    expected = {0.0: 1, 0.25: 3, 0.5: 3, 1 - 2.0**-53: 3}[u]
    assert Seeded(0).choose([0.0, 0.25, 0.0, 0.75, 0.0]) == expected


def test_frequencies_are_the_stated_probabilities():
    """A fixed seed over 20 000 draws; within 4.5 standard deviations (odds of a false alarm 1e-5)."""
    p, n = np.array([0.5, 0.3, 0.15, 0.05]), 20_000
    rng = Seeded(5)
    counts = np.bincount([rng.choose(p) for _ in range(n)], minlength=4)
    assert np.all(np.abs(counts - n * p) < 4.5 * np.sqrt(n * p * (1 - p)))


def test_uniforms_fill_the_unit_interval():
    """Counters of one seed, and seeds at one counter, are both flat: chi-square on 64 cells below 130
    (odds of a false alarm 1e-6 each)."""
    many = np.arange(64_000, dtype=np.uint64)
    derived = np.array([derive(0, int(i)) for i in many[:16_000]], np.uint64)
    for values in (uniforms(np.array([3], np.uint64), many), uniforms(derived, np.zeros(1, np.uint64))):
        assert values.min() >= 0
        assert values.max() < 1
        counts, expected = np.bincount((values * 64).astype(int), minlength=64), len(values) / 64
        assert ((counts - expected) ** 2 / expected).sum() < 130


def test_a_batch_is_its_single_draws():
    """Shapes broadcast, and a batch changes nothing: the vectorised backends rely on it."""
    s, c = np.array([[1], [2]], np.uint64), np.arange(3, dtype=np.uint64)
    batch = uniforms(s, c)
    assert batch.shape == (2, 3)
    singles = [[float(uniforms(s[i], c[j : j + 1])[0]) for j in range(3)] for i in range(2)]
    assert batch.tolist() == singles


def test_some_children_are_those_children_and_nothing_else_is_shared():
    """Child i is the parent's child `indices[i]`; the seed and other streams are the selection's own."""
    parent = Seeded(5)
    some = SomeChildren(parent, [4, 1])
    assert [some.child(i).seed for i in range(2)] == [parent.child(i).seed for i in (4, 1)]
    others = [some.seed, some.child(2).seed, some.child("request").seed, some.child(0, 1).seed]
    others += [SomeChildren(parent, [1, 4]).seed, SomeChildren(Seeded(6), [4, 1]).seed]
    taken = [parent.seed, *(parent.child(i).seed for i in range(5)), parent.child("request").seed]
    assert len({*others, *taken}) == len(others) + len(taken)
    half = [0.5, 0.5]
    draws = [some.choose(half) for _ in range(16)]
    assert draws == [again.choose(half) for again in [SomeChildren(parent, [4, 1])] for _ in range(16)]
    assert len(set(draws)) == 2  # a stream, not one draw repeated: 16 alike would be chance once in 32768
