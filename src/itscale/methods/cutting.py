"""Paths cut anywhere, so as to go on from there: between steps, inside one, or where a limit cut one off."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from itscale.errors import OptionError
from itscale.models.base import Model
from itscale.types import End, Path, Step

__all__ = ["cut_path", "split_at"]


def cut_path(model: Model, path: Path, n_tokens: int) -> Path:
    """The first `n_tokens` of a path, as a path that has not ended.

    Inside a step that takes a backend that told where its tokens end, or a model of `Capability.FORCING`,
    which spells the part: a forced step, for its tokens were generated as part of another. Where neither
    can be had (a server hid a part of a character), the steps before it. A whole step is itself, with
    nothing said of why it ended. What the backend told of its tokens stays known.
    """
    node = next(above for above in path.nodes() if above.n_tokens <= n_tokens and not above.ended)
    if node.n_tokens == n_tokens:
        return node
    [split] = [below for below in path.nodes() if below.parent is node]
    step, kept = split.step, n_tokens - node.n_tokens
    assert step is not None
    if kept == step.n_tokens:
        return node.child(replace(step, end=End.BOUNDARY))
    if step.token_ends is not None:
        text = step.text[: step.token_ends[kept - 1]]
        part: Step | None = Step(step.token_ids[:kept], text, End.BOUNDARY, forced=True)
    else:
        try:
            part = model.forced(node, step.token_ids[:kept]).step
        except OptionError:
            return node
    assert part is not None
    return node.child(_told(part, step, 0, kept))


def split_at(path: Path, parts: Mapping[tuple[int, ...], str]) -> Path:
    """The same text in more steps: split after every beginning that is in `parts`, ids to text."""
    node, lengths = Path.root(path.prompt), sorted({len(ids) for ids in parts})
    for step in path.steps:
        before, at, spelled = node, 0, 0
        for length in lengths:
            upto = length - before.n_tokens
            ids = (*before.token_ids, *step.token_ids[:upto])
            if at < upto < step.n_tokens and ids in parts:
                text = parts[ids][len(before.text) + spelled :]
                piece = Step(step.token_ids[at:upto], text, End.BOUNDARY)
                node, at, spelled = node.child(_told(piece, step, at, upto)), upto, spelled + len(text)
        rest = replace(step, token_ids=step.token_ids[at:], text=step.text[spelled:])
        node = node.child(_told(rest, step, at, step.n_tokens))
    return node


def _told(part: Step, whole: Step, start: int, end: int) -> Step:
    """A part of a step with what is known of its tokens."""
    logprobs = whole.token_logprobs and whole.token_logprobs[start:end]
    entropies = whole.token_entropies and whole.token_entropies[start:end]
    certainties = whole.token_certainties and whole.token_certainties[start:end]
    ends = whole.token_ends and whole.token_ends[:end]
    told = None if logprobs is None else math.fsum(logprobs)
    return replace(
        part,
        logprob=told,
        token_logprobs=logprobs,
        token_entropies=entropies,
        token_certainties=certainties,
        token_ends=ends and tuple(e - (ends[start - 1] if start else 0) for e in ends[start:]),
    )
