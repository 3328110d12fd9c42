"""The query transformer: learned queries read planner states and vision tokens into latent planning tokens."""

import torch
import torch.nn.functional as F
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_st4vla import ST4VLAConfig


def decay_gradient(states: torch.Tensor, factor: float) -> torch.Tensor:
    """
    Identity in the forward pass (bit exact); multiplies the gradient by `factor` in the backward pass.

    Source: the gradient decay of arXiv 2510.13778, section 2.1. Written with tensors instead of hooks, so that it
    survives `torch.compile` and sharded training.
    """
    detached = states.detach()
    return detached + factor * (states - detached)


class CrossAttention(nn.Module):
    """Multi-head attention of queries over keys with a key mask; where a key stands is not encoded."""

    def __init__(self, hidden_size: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.q_proj = nn.Linear(hidden_size, hidden_size)
        self.k_proj = nn.Linear(hidden_size, hidden_size)
        self.v_proj = nn.Linear(hidden_size, hidden_size)
        self.o_proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, queries: torch.Tensor, keys: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        # `queries` [B, Q, D], `keys` [B, K, D], `mask` bool [B, K], True where a key may be read.
        def heads(states: torch.Tensor) -> torch.Tensor:
            return states.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

        # Called directly rather than through the attention interface: with a key mask and 64 queries there is no flash
        # kernel to choose, and every device has this one.
        attended = F.scaled_dot_product_attention(
            heads(self.q_proj(queries)),
            heads(self.k_proj(keys)),
            heads(self.v_proj(keys)),
            attn_mask=mask[:, None, None, :],
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.o_proj(attended.transpose(1, 2).flatten(2))


class QueryTransformerBlock(GradientCheckpointingLayer):
    """Pre-norm cross-attention, then a pre-norm MLP. Queries do not attend to each other."""

    def __init__(self, hidden_size: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(hidden_size)
        self.cross_attn = CrossAttention(hidden_size, num_heads, dropout)
        self.norm2 = nn.LayerNorm(hidden_size)
        self.fc1 = nn.Linear(hidden_size, 4 * hidden_size)
        self.fc2 = nn.Linear(4 * hidden_size, hidden_size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, queries: torch.Tensor, keys: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        queries = queries + self.cross_attn(self.norm1(queries), keys, mask)
        return queries + self.dropout(self.fc2(F.gelu(self.fc1(self.norm2(queries)))))


class QueryTransformer(nn.Module):
    """
    Turns planner hidden states and vision tokens into latent planning tokens, one block per planner layer.

    Args:
        config ([`ST4VLAConfig`]): sizes, `planner_layers`, `gradient_decay`.
    """

    def __init__(self, config: ST4VLAConfig) -> None:
        super().__init__()
        self.gradient_decay = float(config.gradient_decay)
        self.query_tokens = nn.Parameter(torch.empty(config.num_query_tokens, config.query_hidden_size))
        self.input_proj = nn.Linear(config.text_config.hidden_size, config.query_hidden_size)
        self.blocks = nn.ModuleList(
            QueryTransformerBlock(config.query_hidden_size, config.query_num_heads, float(config.query_dropout))
            for _ in config.planner_layers
        )

    def forward(
        self,
        planner_states: list[torch.Tensor],
        planner_mask: torch.Tensor,
        vision_tokens: torch.Tensor,
        vision_mask: torch.Tensor,
    ) -> torch.Tensor:
        """
        Args:
            planner_states (`list[torch.Tensor]` of shape `(batch, length, vlm_width)`): one per planner layer.
            planner_mask (`torch.BoolTensor` of shape `(batch, length)`): True at real tokens.
            vision_tokens (`torch.Tensor` of shape `(batch, views * patches, vlm_width)`).
            vision_mask (`torch.BoolTensor` of shape `(batch, views * patches)`): True at tokens of real views.

        Returns:
            `torch.Tensor` of shape `(batch, num_query_tokens, query_hidden_size)`.
        """
        mask = torch.cat([planner_mask, vision_mask.to(planner_mask.device)], dim=1)
        vision_keys = self.input_proj(vision_tokens)
        queries = self.query_tokens.expand(vision_tokens.shape[0], -1, -1)
        for block, states in zip(self.blocks, planner_states, strict=True):
            planner_keys = self.input_proj(decay_gradient(states, self.gradient_decay))
            queries = block(queries, torch.cat([planner_keys, vision_keys], dim=1), mask)
        return queries


__all__ = ["QueryTransformer", "QueryTransformerBlock", "decay_gradient"]
