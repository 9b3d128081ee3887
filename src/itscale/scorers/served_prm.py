"""A process reward model behind a vLLM server: `pooling:MODEL@URL[#kind=KIND]`.

The server's token-wise pooling (`/pooling`) gives a row of label probabilities for every token, or for
every step mark where it was started with `step_tag_id`. Token ids are sent, so that the row of each
step's last token is known by its index; the ids of texts come from the server's `/tokenize`.

Laws: one score a step or a ScorerError; a row that is no distribution over two labels is refused. A
path that was scored is not asked about again, and a longer one keeps the scores of its prefix. The
server reads the whole prefix each time; what its own cache spares is not charged where it says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

from itscale.budget import Ledger
from itscale.errors import ModelError, OptionError, ScorerError, did_you_mean
from itscale.models.openai.client import Endpoint
from itscale.models.openai.dialects import token_ids_of
from itscale.scorers.base import ProcessScorer
from itscale.scorers.layouts import QWEN_MARK, QWEN_SYSTEM, question_of
from itscale.scorers.prm_kinds import PRM_KINDS
from itscale.scorers.served import Served, numbers_in, only_item
from itscale.types import Message, Path, Prompt

__all__ = ["SERVED_KINDS", "PoolingScorer", "served_kind"]

Ids = tuple[int, ...]
SERVED_KINDS = ("token-classification", "qwen2.5-math-prm")
_NEAR = 1e-2
"""How far a row of probabilities, in whatever precision, may be from a sum of 1."""
_SURE = 1e-7
"""How near to 0 and 1 a score may come: a server's 1.0 is rounding, not certainty."""
_REMEMBERED = 4096


def served_kind(name: str) -> str:
    """A kind that can be served.

    Raises:
        OptionError: it is unknown, or not served by /pooling.
    """
    if name in SERVED_KINDS:
        return name
    if name in PRM_KINDS:
        raise OptionError(
            f"a {name} is not read over /pooling: load it in this process with hf:PATH#kind={name}; "
            f"served are {', '.join(SERVED_KINDS)}"
        )
    raise OptionError(did_you_mean("kind of process reward model", name, SERVED_KINDS))


class PoolingScorer(Served, ProcessScorer):
    """A process reward model on a server.

    Args:
        kind: `token-classification` reads the reasoner's own token ids at each step's last;
            `qwen2.5-math-prm` reads text, at the mark after each step.
    """

    form = "pooling"

    def __init__(self, endpoint: Endpoint, model: str, kind: str = SERVED_KINDS[0]) -> None:
        super().__init__(endpoint, model)
        self.kind = served_kind(kind)
        self._prompts: dict[Prompt, Ids] = {}
        self._tokens: WeakKeyDictionary[Path, Ids] = WeakKeyDictionary()
        self._scores: WeakKeyDictionary[Path, float] = WeakKeyDictionary()
        self._turns: WeakKeyDictionary[Path, asyncio.Lock] = WeakKeyDictionary()
        self._mark: int | None = None

    @property
    def identity(self) -> str:
        return f"{self.name}#kind={self.kind}"

    async def score(self, path: Path, ledger: Ledger) -> Sequence[float]:
        nodes = list(path.nodes())[::-1]
        pieces = [await self._prompt_ids(path.prompt)]
        pieces += [await self._step_ids(node) for node in nodes[1:]]
        judged = [node for node, piece in zip(nodes[1:], pieces[1:], strict=True) if piece]
        if judged:
            async with self._turns.setdefault(judged[-1], asyncio.Lock()):
                if judged[-1] not in self._scores:
                    await self._judge(judged, pieces, ledger)
        scores: list[float] = []
        for node in nodes[1:]:
            score = self._scores.get(node)
            if score is None and not scores:
                raise ScorerError(
                    f"{self.name} cannot judge a first step without a token; use another scorer"
                )
            scores.append(scores[-1] if score is None else score)
        return scores

    async def _judge(self, judged: Sequence[Path], pieces: Sequence[Ids], ledger: Ledger) -> None:
        """Ask about a path; keep the score of each of its nodes that had none."""
        ids = [t for piece in pieces for t in piece]
        item = only_item(await self._ask("/pooling", {"input": ids}, ledger, len(ids)))
        rows = item.get("data")
        if not isinstance(rows, list):
            raise self._refused("no rows, but something that is no token-wise pooling")
        ends, reached = [], len(pieces[0])
        for piece in pieces[1:]:
            reached += len(piece)
            if piece:
                ends.append(reached - 1)
        if len(rows) != len(ids):
            marks = [i for i, t in enumerate(ids) if t == self._mark]
            if self._mark is None or len(rows) != len(marks):
                raise self._refused(
                    f"{len(rows)} rows for {len(ids)} tokens, {len(ends)} of them the last of a step"
                )
            place = {at: row for row, at in enumerate(marks)}
            ends = [place[end] for end in ends]
        for node, end in zip(judged, ends, strict=True):
            self._scores.setdefault(node, self._right(rows[end]))

    def _right(self, row: Any) -> float:
        """The probability of the label right, in the open interval."""
        values = numbers_in(row)
        if values is None or len(values) != 2:
            raise self._refused("a row that does not hold two numbers, wrong and right")
        if min(values) < 0 or abs(sum(values) - 1) > _NEAR:
            raise self._refused("rows that are no probabilities, so it was started without its activation")
        return min(1 - _SURE, max(_SURE, values[1]))

    async def _prompt_ids(self, prompt: Prompt) -> Ids:
        known = self._prompts.get(prompt)
        if known is None:
            asked = prompt
            if self.kind == "qwen2.5-math-prm":
                question = question_of(prompt)
                asked = Prompt(messages=(Message("system", QWEN_SYSTEM), Message("user", question)))
                [self._mark] = await self._spelled(QWEN_MARK, exactly=1)
            known = await token_ids_of(self.endpoint, self._model, asked)
            while len(self._prompts) >= _REMEMBERED:
                del self._prompts[next(iter(self._prompts))]
            self._prompts[prompt] = known
        return known

    async def _step_ids(self, node: Path) -> Ids:
        """The tokens a step adds, the last of which is where it is judged; none for white space."""
        known = self._tokens.get(node)
        if known is None:
            step = node.step
            assert step is not None
            if self.kind == "qwen2.5-math-prm":
                blank = node.depth > 1 and not step.text.strip()
                known = () if blank else await self._spelled(step.text.strip() + QWEN_MARK)
            else:
                known = step.token_ids or (await self._spelled(step.text) if step.text else ())
            self._tokens[node] = known
        return known

    async def _spelled(self, text: str, exactly: int | None = None) -> Ids:
        """The server's token ids of a text, without special tokens around it."""
        url = f"{self.endpoint.address.root}/tokenize"
        body = {"model": self._model, "prompt": text, "add_special_tokens": False}
        tokens = (await self.endpoint.post(url, body)).get("tokens")
        if not isinstance(tokens, list) or not tokens or not all(type(t) is int for t in tokens):
            raise ModelError(f"{url} gives no token ids; use a server that does (vLLM)")
        if exactly is not None and len(tokens) != exactly:
            raise ScorerError(
                f"the tokenizer of {self.name} has no token {text!r}, so it is no {self.kind}; see #kind=KIND"
            )
        return tuple(tokens)
