"""Verdicts: read from a judge's last line, strictly, or not at all."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from itscale.scorers.verdicts import NoVerdict, best_of_two, merged_ranks, ranking, score_on


@pytest.mark.parametrize(
    ("line", "score"), [("Score: 1", 0.05), ("**Score: 10**", 0.95), ("Score:  5.5 ", 0.5)]
)
def test_marks_are_moved_into_the_open_interval(line: str, score: float):
    """The ends of a scale are no certainties: their odds would be infinite."""
    assert score_on(f"Reasons.\n{line}\n\n", 1, 10) == pytest.approx(score)


@given(st.text(max_size=60))
def test_no_text_breaks_a_parser(text: str):
    """It gives a verdict in range or raises NoVerdict."""
    for read in (lambda t: (score_on(t, 0, 5),), best_of_two, lambda t: ranking(t, 3)):
        try:
            verdict = read(f"why\nBest: {text}"), read(text)
        except NoVerdict:
            continue
        assert verdict


def test_rankings_name_every_answer_once():
    """Equals share a rank; a name missing, twice or unknown is no ranking."""
    assert ranking("Because.\nRanking: 2 > 3=1", 3) == (1, 0, 1)
    for order in itertools.permutations((1, 2, 3)):
        said = "Ranking: " + " > ".join(map(str, order))
        assert ranking(said, 3) == tuple(order.index(i) for i in (1, 2, 3))
    for said in (
        "Ranking: 1 > 2",
        "Ranking: 1 > 2 > 2",
        "Ranking: 1 > 2 > 4",
        "Ranking: [1] > [2] > [3]",
        "1 > 2 > 3",
    ):
        with pytest.raises(NoVerdict, match="all of 1 to 3"):
            ranking(said, 3)
    assert best_of_two("x\nBest: Tie") == (0, 0)
    assert merged_ranks([(0, 1), (1, 0)]) == (0, 0)
