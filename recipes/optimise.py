"""The optimiser both recipes share: Muon on the matrices, AdamW on everything else."""

from __future__ import annotations

import torch
from torch import nn


class Optimiser:
    """Muon (matrices inside the layers) and AdamW (embeddings, norms, heads) stepped together.

    The learning rates are constant for the first `constant_share` of `total_steps`, then fall
    linearly to zero.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        total_steps: int,
        muon_lr: float,
        adamw_lr: float,
        constant_share: float = 0.3,
    ) -> None:
        matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and ".layers." in n]
        inside = {id(p) for p in matrices}
        others = [p for p in model.parameters() if id(p) not in inside]
        self.parameters = list(model.parameters())
        self.optimisers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(matrices, lr=muon_lr, momentum=0.95, weight_decay=0.01),
            torch.optim.AdamW(others, lr=adamw_lr, betas=(0.9, 0.98), weight_decay=0.0),
        ]

        def share(step: int) -> float:
            if step < 100:
                return (step + 1) / 100
            return min(1.0, (total_steps - step) / (total_steps * (1 - constant_share)))

        self.schedules = [torch.optim.lr_scheduler.LambdaLR(o, share) for o in self.optimisers]

    def step(self, loss: torch.Tensor) -> float:
        """Backward, clip, step, schedule; returns the gradient norm before clipping."""
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for optimiser in self.optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        for schedule in self.schedules:
            schedule.step()
        return float(norm)
