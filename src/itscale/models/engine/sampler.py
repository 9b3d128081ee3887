"""Tokens from logits, so that neither batch shape nor order shows in what is drawn.

Each row has its own seed and draws one uniform per token position. Floating point makes logits
depend on the batch a little (in float32 by less than a quarter of CLOSE, which a test holds). A
draw that comes within CLOSE of changing is reported as `close`, and the engine takes it again on
logits computed from the token ids alone in one canonical shape. What is drawn is then a function
of tokens, seed and machine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from itscale.randomness import uniforms

__all__ = ["CLOSE", "Draws", "Settings", "draw", "log_law"]

CLOSE = 1e-4
"""Probability (or, for greedy, logit) distance under which a draw counts as undecided."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Settings:
    """Sampling of B rows; every field but the last has shape (B,)."""

    temperature: Floats
    top_p: Floats
    top_k: npt.NDArray[np.int64]
    seeds: npt.NDArray[np.uint64]
    positions: npt.NDArray[np.int64]
    """How many tokens the row has drawn before."""
    tolerance: float = CLOSE
    """Under which distance a draw is close; one for all rows."""

    def rows(self, which: npt.NDArray[np.int64]) -> Settings:
        """The settings of some rows."""
        return Settings(
            self.temperature[which],
            self.top_p[which],
            self.top_k[which],
            self.seeds[which],
            self.positions[which],
            self.tolerance,
        )


@dataclass(frozen=True, slots=True)
class Draws:
    """One token a row: ids (B,), natural-log probabilities (B,), entropies of the laws (B,) and their
    divergences from the uniform one (B,) in nats at temperature 1, and whether each draw was close (B,)."""

    tokens: npt.NDArray[np.int64]
    logprobs: Floats
    entropies: Floats
    certainties: Floats
    close: npt.NDArray[np.bool_]


def draw(logits: torch.Tensor, settings: Settings) -> Draws:
    """Draw from `logits` (B, vocabulary).

    The log-probability is under the sampling distribution (after temperature, top-k and top-p);
    for a greedy row, whose distribution has one outcome, it is the one at temperature 1.
    """
    greedy = settings.temperature == 0
    log_p, entropies, certainties, close = log_law(logits, settings)
    tokens = np.empty(len(greedy), dtype=np.int64)
    if greedy.any():
        rows = torch.from_numpy(np.flatnonzero(greedy)).to(logits.device)
        best = torch.topk(logits[rows].float(), 2, dim=-1)
        tokens[greedy] = best.indices[:, 0].cpu().numpy()
        close[greedy] = ((best.values[:, 0] - best.values[:, 1]) < 10 * settings.tolerance).cpu().numpy()
    if not greedy.all():
        rows = torch.from_numpy(np.flatnonzero(~greedy)).to(logits.device)
        edges = torch.cumsum(log_p[rows].exp(), dim=-1)
        u = torch.from_numpy(uniforms(settings.seeds[~greedy], settings.positions[~greedy].astype(np.uint64)))
        u = u.to(logits.device)[:, None] * edges[:, -1:]
        tokens[~greedy] = (edges <= u).sum(-1).clamp(max=edges.shape[-1] - 1).cpu().numpy()
        close[~greedy] |= ((edges[:, :-1] - u).abs().amin(-1) < settings.tolerance).cpu().numpy()
    chosen = log_p.gather(1, torch.from_numpy(tokens).to(logits.device)[:, None])[:, 0]
    return Draws(tokens, chosen.cpu().numpy(), entropies, certainties, close)


def log_law(
    logits: torch.Tensor, settings: Settings
) -> tuple[torch.Tensor, Floats, Floats, npt.NDArray[np.bool_]]:
    """The sampling distribution of each row of `logits` (B, vocabulary).

    Returns its natural log (B, vocabulary), after temperature (1 for a greedy row), top-k and top-p;
    the entropy and KL(uniform, law) in nats (B,) at temperature 1 before the other two; and whether the
    set that top-p keeps is close to being another (B,).
    """
    log_p = torch.log_softmax(logits.double(), dim=-1)
    entropies: Floats = torch.special.entr(log_p.exp()).sum(-1).cpu().numpy()
    certainties: Floats = (-log_p.mean(-1) - math.log(log_p.shape[-1])).cpu().numpy()
    temperature = np.where(settings.temperature == 0, 1.0, settings.temperature)
    if (temperature != 1).any():
        log_p = torch.log_softmax(log_p / torch.from_numpy(temperature).to(log_p.device)[:, None], dim=-1)
    close = np.zeros(len(temperature), dtype=np.bool_)
    if (settings.top_p < 1).any() or (settings.top_k > 0).any():
        log_p, close = _filtered(log_p, settings)
    return log_p, entropies, certainties, close


def _filtered(log_p: torch.Tensor, settings: Settings) -> tuple[torch.Tensor, npt.NDArray[np.bool_]]:
    """Keep each row's top-k tokens, then the smallest set reaching top-p; renormalise."""
    ordered, order = torch.sort(log_p, dim=-1, descending=True, stable=True)
    before = torch.cumsum(ordered.exp(), dim=-1) - ordered.exp()
    top_p = torch.from_numpy(settings.top_p).to(log_p.device)[:, None]
    ranks = torch.arange(log_p.shape[-1], device=log_p.device)
    size = settings.top_k.copy()
    size[size <= 0] = log_p.shape[-1]
    keep = (before < top_p) & (ranks < torch.from_numpy(size).to(log_p.device)[:, None])
    close = ((before - top_p).abs().amin(-1) < settings.tolerance) & (top_p[:, 0] < 1)
    kept = torch.full_like(log_p, -torch.inf).scatter(1, order, ordered.where(keep, -torch.inf))
    return torch.log_softmax(kept, dim=-1), close.cpu().numpy()
