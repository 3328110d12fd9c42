"""System 1, the action expert: a diffusion transformer that denoises an action chunk, and its sampling loop."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_st4vla import ST4VLAConfig

TIMESTEP_FREQUENCIES = 256


def eager_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention in plain tensor operations; `query`, `key`, `value` have shape `(batch, heads, tokens, head_dim)`."""
    weights = F.softmax((query @ key.transpose(-1, -2)) * scaling, dim=-1)
    return (weights @ value).transpose(1, 2).contiguous(), weights


class DiTAttention(nn.Module):
    """Full self-attention through transformers' attention interface."""

    is_causal = False

    def __init__(self, config: ST4VLAConfig, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.config = config
        self.num_heads = num_heads
        self.scaling = (hidden_size // num_heads) ** -0.5
        self.q_proj = nn.Linear(hidden_size, hidden_size)
        self.k_proj = nn.Linear(hidden_size, hidden_size)
        self.v_proj = nn.Linear(hidden_size, hidden_size)
        self.o_proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, queries: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        def heads(states: torch.Tensor) -> torch.Tensor:
            return states.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

        attention: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention)
        attended, _ = attention(
            self,
            heads(self.q_proj(queries)),
            heads(self.k_proj(tokens)),
            heads(self.v_proj(tokens)),
            None,
            scaling=self.scaling,
            dropout=0.0,
        )
        return self.o_proj(attended.flatten(2))


class DiTBlock(GradientCheckpointingLayer):
    """
    Pre-norm self-attention and MLP, norms without affine parameters, as in CogACT's action model (arXiv 2411.19650).
    """

    def __init__(self, config: ST4VLAConfig, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(hidden_size, eps=1e-6, elementwise_affine=False)
        self.attn = DiTAttention(config, hidden_size, num_heads)
        self.norm2 = nn.LayerNorm(hidden_size, eps=1e-6, elementwise_affine=False)
        self.fc1 = nn.Linear(hidden_size, 4 * hidden_size)
        self.fc2 = nn.Linear(4 * hidden_size, hidden_size)

    def forward(self, tokens: torch.Tensor, num_kept: int) -> torch.Tensor:
        # Only the last `num_kept` tokens are computed: all of them in the inner blocks, the action tokens in the last
        # one, where nothing reads the others any more (an exact saving of about 6 % of the expert's arithmetic).
        normed = self.norm1(tokens)
        tokens = tokens[:, -num_kept:] + self.attn(normed[:, -num_kept:], normed)
        return tokens + self.fc2(F.gelu(self.fc1(self.norm2(tokens)), approximate="tanh"))


class TimestepEmbedder(nn.Module):
    """Sinusoids of the timestep (cosines first, 256 wide) through a two-layer SiLU MLP."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(TIMESTEP_FREQUENCIES, hidden_size)
        self.fc2 = nn.Linear(hidden_size, hidden_size)

    def forward(self, timesteps: torch.Tensor) -> torch.Tensor:
        half = TIMESTEP_FREQUENCIES // 2
        exponents = torch.arange(half, dtype=torch.float32, device=timesteps.device) / half
        angles = timesteps.float()[:, None] * torch.exp(-math.log(10000.0) * exponents)
        waves = torch.cat([angles.cos(), angles.sin()], dim=-1).to(self.fc1.weight.dtype)
        return self.fc2(F.silu(self.fc1(waves)))


class StateEncoder(nn.Module):
    """
    Normalised proprioceptive state `(batch, state_dim)` to one condition token `(batch, 1, width)`.

    The hidden width of two thirds gives the 0.4 M parameters that arXiv 2510.13778, section 2.1 states at width 768.
    """

    def __init__(self, state_dim: int, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(state_dim, 2 * width // 3)
        self.fc2 = nn.Linear(2 * width // 3, width)

    def forward(self, state: torch.Tensor) -> torch.Tensor:
        return self.fc2(F.silu(self.fc1(state.to(self.fc1.weight.dtype))))[:, None]


class ActionExpert(nn.Module):
    """
    Predicts the noise (or sample, or velocity: what the scheduler trains) in an action chunk from condition tokens.

    The condition stands in the sequence before the actions, and the timestep is added to it. Arithmetic runs in the
    parameters' dtype; noisy actions come in and predictions go out in float32.
    """

    def __init__(self, config: ST4VLAConfig) -> None:
        super().__init__()
        width, heads = config.action_expert["hidden_size"], config.action_expert["num_heads"]
        self.chunk_size = config.chunk_size
        self.condition_dropout = float(config.action_expert["condition_dropout"])
        self.action_embedder = nn.Linear(config.action_dim, width)
        self.timestep_embedder = TimestepEmbedder(width)
        self.condition_embedder = nn.Linear(config.query_hidden_size, width)
        self.unconditional = nn.Parameter(torch.empty(config.num_condition_tokens, config.query_hidden_size))
        self.position_embeddings = nn.Parameter(torch.empty(config.num_condition_tokens + config.chunk_size, width))
        self.blocks = nn.ModuleList(DiTBlock(config, width, heads) for _ in range(config.action_expert["num_layers"]))
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.output_proj = nn.Linear(width, config.action_dim)

    def drop_condition(self, condition: torch.Tensor, drop: torch.Tensor | None) -> torch.Tensor:
        """
        Replaces the condition of some samples by the learned unconditional one (classifier-free guidance).

        Args:
            condition (`torch.Tensor` of shape `(batch, tokens, query_hidden_size)`).
            drop (`torch.BoolTensor` of shape `(batch,)`, *optional*): which samples; drawn with probability
                `condition_dropout` in training mode when `None`, nowhere in evaluation mode.
        """
        if drop is None:
            if not self.training:
                return condition
            # Also at probability 0: `unconditional` then has a gradient of zero, which sharding engines count on.
            drop = torch.rand(condition.shape[0], device=condition.device) < self.condition_dropout
        return torch.where(drop[:, None, None], self.unconditional.to(condition.dtype), condition)

    def forward(self, noisy_actions: torch.Tensor, timesteps: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """
        The whole expert, as training uses it: in training mode some samples lose their condition (`drop_condition`).
        One call, so that engines which shard or compile a module by its `forward` see all of its weights used there.

        Args:
            noisy_actions (`torch.FloatTensor` of shape `(batch, chunk_size, action_dim)`).
            timesteps (`torch.Tensor` of shape `(batch,)`): of the noise schedule.
            condition (`torch.Tensor` of shape `(batch, condition_tokens, query_hidden_size)`).

        Returns:
            `torch.FloatTensor` of shape `(batch, chunk_size, action_dim)`, float32.
        """
        condition = self.condition_embedder(self.drop_condition(condition, None))
        return self.denoise(noisy_actions, self.timestep_embedder(timesteps), condition)

    def denoise(
        self, noisy_actions: torch.Tensor, timestep_embeddings: torch.Tensor, condition: torch.Tensor
    ) -> torch.Tensor:
        """
        Args:
            noisy_actions (`torch.FloatTensor` of shape `(batch, chunk_size, action_dim)`).
            timestep_embeddings (`torch.Tensor` of shape `(batch or 1, hidden_size)`): of `timestep_embedder`.
            condition (`torch.Tensor` of shape `(batch, condition_tokens, hidden_size)`): of `condition_embedder`.

        Returns:
            `torch.FloatTensor` of shape `(batch, chunk_size, action_dim)`, float32.
        """
        actions = self.action_embedder(noisy_actions.to(self.action_embedder.weight.dtype))
        tokens = torch.cat([condition + timestep_embeddings[:, None], actions], dim=1) + self.position_embeddings
        for block in self.blocks[:-1]:
            tokens = block(tokens, tokens.shape[1])
        actions = self.blocks[-1](tokens, self.chunk_size)
        return self.output_proj(self.norm(actions)).float()

    @torch.no_grad()
    def sample(
        self,
        condition: torch.Tensor,
        noise: torch.Tensor,
        scheduler: Any,
        num_inference_steps: int,
        guidance_scale: float,
        generator: torch.Generator | None = None,
        action_dim_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        Denoises `noise` into an action chunk with a diffusers scheduler.

        Args:
            condition (`torch.Tensor` of shape `(batch, condition_tokens, query_hidden_size)`).
            noise (`torch.FloatTensor` of shape `(batch, chunk_size, action_dim)`): the initial sample, float32.
            scheduler: a fresh diffusers scheduler; its step state is used up by this call.
            num_inference_steps (`int`), guidance_scale (`float`): 1 skips the unconditional half.
            generator (`torch.Generator`, *optional*): for schedulers that draw noise while stepping.
            action_dim_mask (`torch.Tensor` of shape `(batch, action_dim)`, *optional*): 0 at padded dimensions, which
                stay 0 throughout, as in training.

        Returns:
            `torch.FloatTensor` of shape `(batch, chunk_size, action_dim)`, float32, normalised action space.
        """
        # 1. What does not change while denoising: embedded conditions and the embeddings of all timesteps
        scheduler.set_timesteps(num_inference_steps)
        timesteps = scheduler.timesteps
        guided = guidance_scale != 1.0
        embedded = self.condition_embedder(condition)
        if guided:
            unconditional = self.condition_embedder(self.unconditional.to(condition.dtype))
            embedded = torch.cat([embedded, unconditional.expand_as(embedded)])
        timestep_embeddings = self.timestep_embedder(timesteps.to(noise.device))

        # 2. Step from noise to actions in float32
        kept = 1.0 if action_dim_mask is None else action_dim_mask.to(noise.device).float()[:, None]
        sample = noise.float() * float(scheduler.init_noise_sigma if hasattr(scheduler, "init_noise_sigma") else 1.0)
        sample = sample * kept
        step_options = {"generator": generator} if generator is not None and _takes_generator(scheduler) else {}
        for index, timestep in enumerate(timesteps):
            inputs = scheduler.scale_model_input(sample, timestep) if _scales_input(scheduler) else sample
            prediction = self.denoise(
                torch.cat([inputs, inputs]) if guided else inputs, timestep_embeddings[index : index + 1], embedded
            )
            if guided:
                conditional, unconditional = prediction.chunk(2)
                prediction = unconditional + guidance_scale * (conditional - unconditional)
            sample = scheduler.step(prediction, timestep, sample, return_dict=False, **step_options)[0] * kept
        return sample.float()


def _takes_generator(scheduler: Any) -> bool:
    return "generator" in scheduler.step.__code__.co_varnames[: scheduler.step.__code__.co_argcount]


def _scales_input(scheduler: Any) -> bool:
    return hasattr(scheduler, "scale_model_input")


__all__ = ["ActionExpert", "DiTBlock", "StateEncoder", "TimestepEmbedder"]
