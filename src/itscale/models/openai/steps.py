"""From one choice of an answer to the steps in it.

A step ends with the first token at whose end the text since the step's start contains the boundary.
That is how a server's own stop strings work, so a whole answer falls into the very steps that
asking step by step gives. Where there are only texts, a step ends right behind the boundary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from itscale.models.likeliest import Statistics, token_ends
from itscale.models.openai.wire import Choice, Malformed
from itscale.types import End, Sampling, Step, Until, to_json

__all__ = ["end_of", "text_steps", "token_steps"]


def end_of(choice: Choice, boundary: str) -> End:
    """Why a choice ended: a length or an abort is never the end of the answer."""
    if choice.finish == "length":
        return End.LENGTH
    if choice.finish == "stop":
        if choice.stopped_on == boundary:
            return End.BOUNDARY
        return End.STOP if isinstance(choice.stopped_on, str) else End.EOS
    return End.EOS if choice.finish in ("tool_calls", "function_call") else End.ABORT


def token_steps(
    choice: Choice, boundary: str, until: Until, sampling: Sampling, statistics: Statistics | None = None
) -> list[Step]:
    """The steps of a choice that came with its token ids and their texts.

    With `statistics` each tells them of its tokens and where their texts end, so that it can be cut
    wherever they say something; neither where the texts of its tokens do not make up its own.

    Raises:
        Malformed: ids, texts and log-probabilities are not equally many, or more than were allowed.
    """
    ids, pieces = choice.token_ids, choice.pieces
    if ids is None or pieces is None or len(ids) != len(pieces):
        raise Malformed("token ids and their texts are not equally many")
    if len(ids) > until.max_tokens:
        raise Malformed(f"{len(ids)} tokens where at most {until.max_tokens} were allowed")
    logprobs = choice.logprobs if choice.logprobs and len(choice.logprobs) == len(ids) else None
    cuts = list(_cuts(pieces, boundary))
    closed = _closed(bool(cuts) and cuts[-1][0] == len(ids), choice, boundary, until)
    texts = _texts(choice.text, pieces, cuts, boundary)
    edges = [0, *[stop for stop, _ in cuts], *([] if closed else [len(ids)])]
    ends = _ends(len(edges) - 1, closed, end_of(choice, boundary), until)
    steps = []
    for a, b, text, end in zip(edges[:-1], edges[1:], texts, ends, strict=False):
        total, each = _told(logprobs, a, b, sampling)
        step = Step(ids[a:b], text, end, total, token_logprobs=each)
        if statistics is not None and (spelled := token_ends(pieces[a:b], text)) is not None:
            sure = statistics.certainties
            step = replace(
                step,
                token_entropies=statistics.entropies[a:b],
                token_certainties=None if sure is None else sure[a:b],
                token_ends=spelled,
            )
        steps.append(step)
    return steps


def text_steps(choice: Choice, boundary: str, until: Until, sampling: Sampling, count: int) -> list[Step]:
    """The steps of a choice without token ids, of `count` tokens in all.

    A step's own count is exact where the texts of the tokens came along; elsewhere each step gets
    its share by length of text, and only the sum is exact.
    """
    text = choice.text
    edges = [0]
    while (at := text.find(boundary, edges[-1])) >= 0:
        edges.append(at + len(boundary))
    closed = _closed(len(edges) > 1 and edges[-1] == len(text), choice, boundary, until)
    if not closed:
        edges.append(len(text))
    ends = _ends(len(edges) - 1, closed, end_of(choice, boundary), until)
    tokens = _token_edges(choice, edges, count)
    exact = choice.pieces is not None and "".join(choice.pieces).startswith(text)
    logprobs = choice.logprobs if exact and choice.logprobs and len(choice.logprobs) == count else None
    steps = []
    for i, end in enumerate(ends):
        total, each = _told(logprobs, tokens[i], tokens[i + 1], sampling)
        last = i == len(ends) - 1
        step = Step(
            (),
            text[edges[i] : edges[i + 1]],
            end,
            total,
            tokens[i + 1] - tokens[i],
            choice.reasoning if i == 0 else None,
            to_json(choice.tool_calls) if choice.tool_calls and last else None,
            choice.finish if last and choice.finish not in ("", "stop", "length") else None,
            each,
        )
        steps.append(step)
    return steps


def _cuts(pieces: Sequence[str], boundary: str) -> Iterator[tuple[int, str]]:
    """Where steps end: how many tokens until there, and what the last of them says beyond the boundary."""
    seen = ""
    for i, piece in enumerate(pieces):
        start = max(0, len(seen) - len(boundary) + 1)
        seen += piece
        at = seen.find(boundary, start)
        if at >= 0:
            yield i + 1, seen[at + len(boundary) :]
            seen = ""


def _texts(text: str, pieces: Sequence[str], cuts: Sequence[tuple[int, str]], boundary: str) -> list[str]:
    """The text of each step, taken from the whole, where characters of several tokens are whole."""
    texts, cursor, before = [], 0, 0
    for stop, tail in cuts:
        at = text.find(boundary, cursor)
        if at >= 0:
            texts.append(text[cursor : at + len(boundary)] + tail)
        else:
            texts.append("".join(pieces[before:stop]))
        # A server that stops on the boundary shows its text up to there, and the token has more.
        cursor = min(len(text), at + len(boundary) + len(tail)) if at >= 0 else len(text)
        before = stop
    return [*texts, text[cursor:]]


def _closed(on_boundary: bool, choice: Choice, boundary: str, until: Until) -> bool:
    """Whether the last step ends on the boundary. An answer that ended there has one more, an empty
    one: the end of sequence, as asking for the next step would give."""
    return on_boundary and (until.what == "step" or end_of(choice, boundary) is not End.EOS)


def _ends(count: int, closed: bool, natural: End, until: Until) -> list[End]:
    """Why each step ended. Asked for one step, whatever a server says beyond it is dropped."""
    if until.what == "step":
        return [End.BOUNDARY if closed or count > 1 else natural]
    return [End.BOUNDARY] * (count - 1) + [natural]


def _told(
    logprobs: Sequence[float] | None, a: int, b: int, sampling: Sampling
) -> tuple[float | None, tuple[float, ...] | None]:
    """The log-probability of tokens a to b, in all and one by one; None where it is not known.

    A server's are those at temperature 1. Greedy has one outcome; what is told of it is its
    probability at temperature 1, as elsewhere.
    """
    if logprobs is None or not sampling.plain:
        return None, None
    return math.fsum(logprobs[a:b]), tuple(logprobs[a:b])


def _token_edges(choice: Choice, edges: Sequence[int], count: int) -> list[int]:
    """For each edge in the text, how many tokens lie before it; the last has all."""
    length = edges[-1]
    inner = [round(count * edge / length) if length else 0 for edge in edges[1:-1]]
    if choice.pieces is not None and "".join(choice.pieces).startswith(choice.text):
        reached, stops = 0, []
        for piece in choice.pieces:
            reached += len(piece)
            stops.append(reached)
        inner = [min(count, sum(stop < edge for stop in stops) + 1) for edge in edges[1:-1]]
    return [0, *inner, count]
