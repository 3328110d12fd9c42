"""
Projection-space similarity (PSS): do grounding and acting pull the planner in the same directions?

    PSS = tr(P_spatial P_action) / min(r_spatial, r_action)        (arXiv 2510.13778, figure 5c)

`P = G G^+` projects on the column space of a gradient matrix `G`, `r` is its rank. 1: one subspace holds the other; 0:
they are orthogonal; two random subspaces of n dimensions come to `max(r_spatial, r_action) / n`, given as `chance`.
The paper reports 0.25 for vanilla co-training and 0.42 for spatially guided training, and leaves open what is chosen
here, so that figures compare within this package and not with the paper's:

- *Matrices*: one `G` per weight, its gradient `[outputs, inputs]`; by default the attention output projections of all
  layers of the planner's language model, whose column space lies in the residual stream. The result is their mean.
- *Rank*: gradients of thousands of tokens have full rank numerically, and full-rank projectors are equal, whatever the
  data. The leading singular vectors count that hold 95 % of the squared gradient; or a fixed number of them.
- *Batches*: the same samples, noise and timesteps every time, in training mode.

Gradient decay scales the action gradient and does not turn it: PSS does not depend on it (0 leaves nothing).
"""
# The trainer and its model are known by what they can do.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers.trainer_callback import TrainerCallback

from training_st4vla.data.collators import CoTrainingCollator
from training_st4vla.errors import UserError
from training_st4vla.gauges import plain_name
from training_st4vla.randomness import same_draws

DEFAULT_LAYERS = r"vlm\.model\.language_model\.layers\.\d+\.self_attn\.o_proj\.weight"
DEFAULT_RANK = 0.95


@dataclass(frozen=True)
class Similarity:
    """
    Of two subspaces of one space.

    Args:
        pss (`float`): 0 to 1. ranks (`tuple[int, int]`): dimensions of the two. chance (`float`): what random
            subspaces of these ranks come to on average.
    """

    pss: float
    ranks: tuple[int, int]
    chance: float


def column_space(matrix: torch.Tensor, rank: float = DEFAULT_RANK) -> torch.Tensor:
    """
    An orthonormal basis of the leading part of a matrix's column space, by SVD in float32.

    Args:
        matrix (`torch.Tensor` of shape `(n, m)`).
        rank (`float`): below 1, the share of the squared matrix that the basis holds, with as few vectors as possible;
            from 1 on, the number of vectors. Singular values that are rounding noise never count.

    Returns:
        `torch.Tensor` of shape `(n, r)`; `r` is 0 for a matrix of zeros.

    Raises:
        ValueError: for another shape, or a rank that is neither a share nor a whole number.
    """
    if matrix.ndim != 2:
        raise ValueError(f"matrix: expected two dimensions, found shape {tuple(matrix.shape)}.")
    if rank <= 0 or (rank >= 1 and rank != int(rank)):
        raise ValueError(f"rank: expected a share between 0 and 1 or a whole number, found {rank}.")
    vectors, values, _ = torch.linalg.svd(matrix.detach().float(), full_matrices=False)
    values = values.double()
    noise = values.max() * max(matrix.shape) * torch.finfo(torch.float32).eps
    possible = int((values > noise).sum())
    if rank >= 1:
        return vectors[:, : min(int(rank), possible)]
    held = (values**2).cumsum(0) / (values**2).sum().clamp(min=torch.finfo(torch.float64).tiny)
    return vectors[:, : min(int((held < rank).sum()) + 1, possible)]


def projection_space_similarity(first: torch.Tensor, second: torch.Tensor, rank: float = DEFAULT_RANK) -> Similarity:
    """
    PSS of the column spaces of two matrices with equally many rows.

    Args:
        first, second (`torch.Tensor` of shape `(n, m)`): the second dimension may differ.
        rank (`float`): as in [`column_space`].

    Raises:
        ValueError: for different numbers of rows, or a matrix of zeros.
    """
    if first.shape[0] != second.shape[0]:
        raise ValueError(f"expected equally many rows, found {first.shape[0]} and {second.shape[0]}.")
    one, two = column_space(first, rank), column_space(second, rank)
    ranks = (one.shape[1], two.shape[1])
    if min(ranks) == 0:
        raise ValueError("a gradient is zero: it spans nothing that could be compared.")
    # tr(U U' V V') is the squared length of U'V; no n x n projector is needed.
    pss = float((one.T @ two).double().square().sum()) / min(ranks)
    return Similarity(pss, ranks, max(ranks) / first.shape[0])


def gradient_similarity(
    model: Any, inputs: dict[str, Any], layers: str = DEFAULT_LAYERS, rank: float = DEFAULT_RANK
) -> dict[str, Similarity]:
    """
    PSS of every chosen matrix, between the text loss and the action loss of one batch.

    Args:
        model ([`ST4VLAForActionPrediction`]): in the mode to measure in; its gradients are left alone.
        inputs (`dict`): of its `forward`, with `actions` and `grounding_inputs`.
        layers (`str`): regular expression that whole parameter names match.
        rank (`float`): as in [`column_space`].

    Returns:
        By parameter name. Matrices that a loss does not reach are left out: layers above the highest planner layer;
        all of them as long as a new action expert predicts zeros.

    Raises:
        UserError: when no trained matrix matches.
    """
    chosen = {
        plain_name(name): parameter
        for name, parameter in model.named_parameters()
        if re.fullmatch(layers, plain_name(name)) and parameter.requires_grad and parameter.ndim == 2
    }
    if not chosen:
        raise UserError(f"--similarity-layers: no trained matrix of the model matches {layers!r}.")
    outputs = model(**inputs)
    weights = list(chosen.values())
    acting = torch.autograd.grad(outputs.action_loss, weights, allow_unused=True, retain_graph=True)
    spatial = torch.autograd.grad(outputs.lm_loss, weights, allow_unused=True)
    return {
        name: projection_space_similarity(text, action, rank)
        for name, text, action in zip(chosen, spatial, acting, strict=True)
        if text is not None and action is not None and text.any() and action.any()
    }


class GradientSimilarityCallback(TrainerCallback):
    """
    Measures `pss`, `pss_chance` and both mean ranks every so many optimiser steps, always on the same samples; the
    trainer's next log line shows them.

    Args:
        trainer ([`SpatialActionTrainer`]).
        grounding (`Dataset`): samples `{image, instruction, kind, answer}`.
    """

    def __init__(self, trainer: Any, grounding: Any) -> None:
        self.trainer, self.grounding = trainer, grounding
        self._inputs: dict[str, Any] | None = None
        self._found: dict[str, float] = {}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measures at every multiple of `args.similarity_steps`."""
        if state.global_step % args.similarity_steps == 0:
            self._found = self.measure()

    def take(self) -> dict[str, float]:
        """What was measured since it was last taken."""
        found, self._found = self._found, {}
        return found

    def measure(self) -> dict[str, float]:
        """The figures of the model as it is; neither its gradients nor the run's random numbers change."""
        trainer, args = self.trainer, self.trainer.args
        if self._inputs is None:
            self._inputs = self._draw(args.similarity_samples)
        model = trainer.accelerator.unwrap_model(trainer.model)
        with same_draws(args.seed):
            inputs = trainer._prepare_inputs(self._inputs)
            found = gradient_similarity(model, inputs, args.similarity_layers, args.similarity_rank).values()
        if not found:
            return {}
        return {
            "pss": float(np.mean([one.pss for one in found])),
            "pss_chance": float(np.mean([one.chance for one in found])),
            "pss_rank_spatial": float(np.mean([one.ranks[0] for one in found])),
            "pss_rank_action": float(np.mean([one.ranks[1] for one in found])),
        }

    def _draw(self, number: int) -> dict[str, Any]:
        """Evenly from both kinds of data."""
        actions, grounding = self.trainer.action_dataset, self.grounding
        pairs = [
            (actions[place(index, number, len(actions))], [grounding[place(index, number, len(grounding))]])
            for index in range(number)
        ]
        return CoTrainingCollator(self.trainer.processing_class)(pairs)


def place(index: int, number: int, count: int) -> int:
    """Where sample `index` of `number` evenly drawn ones lies among `count`."""
    return (2 * index + 1) * count // (2 * number)


__all__ = [
    "DEFAULT_LAYERS",
    "DEFAULT_RANK",
    "GradientSimilarityCallback",
    "Similarity",
    "column_space",
    "gradient_similarity",
    "projection_space_similarity",
]
