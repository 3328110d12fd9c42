"""
Attention of questions that share an image, turn by turn instead of all with all.

In `[images][turn 1][turn 2]...` a turn sees the images and itself. Under one mask over the whole sequence scores of
every turn against every other are computed, to be thrown away: behind 68 tokens of an image, eleven turns of 45 use a
fifth of theirs. Here turns of similar length are gathered into blocks, each attends to its own images and itself, in
plain matrix products, which on a CPU that multiplies bfloat16 are faster than torch's fused kernel.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

BY_TURNS = "by_turns"
"""Name for transformers' `attn_implementation`."""

BLOCKS = 5
"""Into how many blocks the turns of a batch are sorted by length. Fewer pad more, more are more calls."""


class TurnBlock(NamedTuple):
    """
    Turns of similar length; places count over the flattened batch, `row * length + column`.

    Attributes:
        queries (`torch.LongTensor` of shape `(turns, tokens)`): past its end a turn repeats its last token.
        keys (`torch.LongTensor` of shape `(turns, shared + tokens)`): what all turns of its row share, then the turn.
        hidden (`torch.BoolTensor` of shape `(turns, 1, tokens, shared + tokens)`): what a query does not see.
    """

    queries: torch.Tensor
    keys: torch.Tensor
    hidden: torch.Tensor


class TurnBlocks(NamedTuple):
    """
    All blocks of a batch.

    Attributes:
        blocks (`list[TurnBlock]`): what is shared is the first, as a turn of its own.
        back (`torch.LongTensor` of shape `(batch * length,)`): where a token's result lies among those of all blocks,
            one block's after the other's. Padding has some other token's.
    """

    blocks: list[TurnBlock]
    back: torch.Tensor

    def without_padding(self, real: torch.Tensor) -> "TurnBlocks":
        """The same turns where all rows are one, `(1, tokens)`; `real` `(batch, length)` is False at padding."""
        real = real.flatten()
        place = real.cumsum(0) - 1
        blocks = [block._replace(queries=place[block.queries], keys=place[block.keys]) for block in self.blocks]
        return TurnBlocks(blocks, self.back[real])


class Looking:
    """
    Has head 0 of some layers look at cells of the image, and gathers what that costs.

    Args:
        columns (`torch.LongTensor` of shape `(batch, length)`): for each token the column of the token to look at,
            one of what all turns share, or -1.
        layers (`tuple[int, ...]`): of the language model, from 0.
    """

    def __init__(self, columns: torch.Tensor, layers: tuple[int, ...]) -> None:
        self.columns, self.layers = columns, layers
        self._losses: list[torch.Tensor] = []

    def add(self, query: torch.Tensor, key: torch.Tensor, block: TurnBlock, scaling: float) -> None:
        """Queries and keys `(turns, heads, tokens, head_dim)` of a block: minus the log of the attention paid."""
        wanted = self.columns.flatten()[block.queries]
        asked = wanted >= 0
        scores = (query[:, 0] * scaling) @ key[:, 0].transpose(-1, -2)
        scores = scores.masked_fill(block.hidden[:, 0], float("-inf"))
        self._losses.append(F.cross_entropy(scores[asked].float(), wanted[asked], reduction="none"))

    def mean(self) -> torch.Tensor:
        """In nats over all tokens that have a cell to look at and all layers; 0 where there is none."""
        losses = torch.cat([*self._losses, self.columns.new_zeros(0, dtype=torch.float32)])
        return losses.sum() / max(1, len(losses))


def blocks_of_turns(turn_ids: torch.Tensor, attention_mask: torch.Tensor) -> TurnBlocks:
    """
    Args:
        turn_ids (`torch.LongTensor` of shape `(batch, length)`): 0 at what all turns share, which comes first, then 1
            in the first turn, 2 in the second, ...; any value at padding, which comes last.
        attention_mask (`torch.Tensor` of shape `(batch, length)`): 0 at padding.
    """
    device, (batch, length) = turn_ids.device, turn_ids.shape
    # On the CPU: a device would be waited for in each line.
    turns, real = turn_ids.cpu(), attention_mask.cpu().bool()
    most = int(turns[real].max()) + 1
    rows = torch.arange(batch)[:, None].expand(batch, length)
    sizes = torch.bincount((rows * most + turns)[real], minlength=batch * most).unflatten(0, (batch, most))
    starts = sizes.cumsum(dim=1) - sizes
    row, turn = (sizes[:, 1:] > 0).nonzero(as_tuple=True)
    order = sizes[row, turn + 1].argsort(stable=True)
    parts = [(part, turn[at] + 1) for at, part in ((at, row[at]) for at in order.chunk(BLOCKS))]
    everyone = torch.arange(batch)

    blocks, results, back = [], 0, torch.zeros(batch * length, dtype=torch.long)
    for of, which in [(everyone, torch.zeros_like(everyone)), *parts]:
        own, size = sizes[of, which][:, None], int(sizes[of, which].max())
        steps = torch.arange(size)
        queries = of[:, None] * length + starts[of, which][:, None] + torch.minimum(steps, own - 1)
        shared = sizes[of, :1] * (which > 0)[:, None]
        before = torch.arange(int(shared.max()))
        keys = torch.cat([of[:, None] * length + torch.minimum(before, shared - 1), queries], dim=1)
        later = steps[:, None] < steps
        absent = (before >= shared)[:, None, :].expand(-1, size, -1)
        hidden = torch.cat([absent, later.expand(len(of), -1, -1)], dim=2)[:, None]
        blocks.append(TurnBlock(queries.to(device), keys.to(device), hidden.to(device)))
        within = steps < own
        back[queries[within]] = results + torch.arange(queries.numel()).view_as(queries)[within]
        results += queries.numel()
    return TurnBlocks(blocks, back.to(device))


def _products(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float,
    hidden: torch.Tensor | None = None,
    added: torch.Tensor | None = None,
    dropout: float = 0.0,
) -> torch.Tensor:
    """Over `(batch, heads, tokens, head_dim)`, with as many heads of keys or a divisor; softmax sums in float32."""
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
    scores = (query * scaling) @ key.transpose(-1, -2)
    if hidden is not None:
        scores = scores.masked_fill_(hidden, float("-inf"))
    if added is not None:
        scores = scores + added
    weights = F.softmax(scores, dim=-1).to(value.dtype)
    return F.dropout(weights, dropout) @ value if dropout else weights @ value


def attention_by_turns(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    turn_blocks: TurnBlocks | None = None,
    looking: Looking | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """
    An attention function of transformers' interface: by `turn_blocks` where they are given, else the usual one.

    Args:
        query (`torch.Tensor` of shape `(batch, heads, length, head_dim)`).
        key, value (`torch.Tensor` of shape `(batch, heads or fewer, length, head_dim)`).
        attention_mask: added to the scores; not looked at beside `turn_blocks`, which say it all.
        looking ([`Looking`], *optional*): is told queries and keys of its layers; beside `turn_blocks` only.

    Returns:
        `torch.Tensor` of shape `(batch, length, heads, head_dim)`, and no weights.
    """
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    # The planner hands what it is given to its vision tower as well.
    if turn_blocks is None or not getattr(module, "is_causal", True):
        return _products(query, key, value, scaling, None, attention_mask, dropout).transpose(1, 2), None
    batch, heads, length, width = query.shape

    def pick(part: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Rows of the flattened batch: `(turns, heads, tokens, head_dim)`."""
        return part.index_select(0, places.flatten()).unflatten(0, places.shape).transpose(1, 2)

    # Rotated by cosines in float32 they come as float32, and would be gathered and multiplied as such.
    parts = (query.to(value.dtype), key.to(value.dtype), value)
    queries, keys, values = (part.transpose(1, 2).flatten(0, 1) for part in parts)
    results = []
    for block in turn_blocks.blocks:
        asking, asked = pick(queries, block.queries), pick(keys, block.keys)
        if looking is not None and module.layer_idx in looking.layers:
            looking.add(asking, asked, block, scaling)
        results.append(_products(asking, asked, pick(values, block.keys), scaling, block.hidden, None, dropout))
    flat = torch.cat([result.transpose(1, 2).flatten(0, 1) for result in results])
    return flat.index_select(0, turn_blocks.back).view(batch, length, heads, width), None


ALL_ATTENTION_FUNCTIONS.register(BY_TURNS, attention_by_turns)
ALL_MASK_ATTENTION_FUNCTIONS.register(BY_TURNS, eager_mask)

__all__ = ["BY_TURNS", "Looking", "TurnBlock", "TurnBlocks", "attention_by_turns", "blocks_of_turns"]
