"""
The planner's vision tower without a loop over windows and without a convolution.

Without flash-attn, transformers calls attention once per window (Qwen2.5-VL) or per image (Qwen3-VL): hundreds of
small calls in every pass. Windows of one length neither see nor differ from each other, so here they share one call.
And it embeds patches by a convolution over inputs as large as its kernel, which is a matrix product: as one, forward
and backward of 2,048 patches take 12 instead of 47 ms (float32, two AVX2 cores, torch 2.12, 2026-11-27).

And it makes out the places of patches and windows image by image in every pass, hundreds of small operations on which
a GPU waits; images of a camera have one size, so here that is done once.
"""

from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VisionPatchEmbed,
    Qwen2_5_VisionTransformerPretrainedModel,
    Qwen2_5_VLVisionAttention,
    apply_rotary_pos_emb_vision,
    eager_attention_forward,
)
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionAttention, Qwen3VLVisionPatchEmbed
from transformers.utils.generic import is_flash_attention_requested
from transformers.vision_utils import get_vision_cu_seqlens, get_vision_position_ids, get_vision_window_index


class BatchedWindows:
    """Replaces `forward` of transformers' vision attention; weights and results are the same."""

    config: Any
    qkv: nn.Module
    proj: nn.Module
    num_heads: int
    scaling: float

    def forward(
        self,
        hidden_states: torch.Tensor,
        cu_seqlens: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        max_seqlen: int | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """
        Args:
            hidden_states (`torch.Tensor` of shape `(patches, width)`): all windows one after the other.
            cu_seqlens (`torch.IntTensor` of shape `(windows + 1,)`): where each window begins, and the end.
            position_embeddings (two `torch.Tensor` of shape `(patches, head_dim)`): cosines and sines.
        """
        if is_flash_attention_requested(self.config):  # has its own kernel for windows of any length
            return super().forward(  # pyright: ignore[reportAttributeAccessIssue]
                hidden_states, cu_seqlens, position_embeddings=position_embeddings, max_seqlen=max_seqlen, **kwargs
            )
        queries, keys, values = self.qkv(hidden_states).unflatten(-1, (3, self.num_heads, -1)).unbind(1)
        queries, keys = apply_rotary_pos_emb_vision(queries, keys, *position_embeddings)
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)

        def attend(*parts: torch.Tensor) -> torch.Tensor:
            """Queries, keys and values `(windows, length, heads, head_dim)`; returns the same shape."""
            query, key, value = (part.transpose(1, 2) for part in parts)
            return attention(
                self, query, key, value, attention_mask=None, scaling=self.scaling, is_causal=False, **kwargs
            )[0]

        windows = list(pairwise(cu_seqlens.tolist()))
        lengths = {end - start for start, end in windows}
        if len(lengths) == 1:
            whole = [tensor.unflatten(0, (-1, *lengths)) for tensor in (queries, keys, values)]
            return self.proj(attend(*whole).reshape(hidden_states.shape))
        attended = torch.empty_like(queries)
        for length in sorted(lengths):
            starts = torch.tensor([start for start, end in windows if end - start == length])
            places = (starts[:, None] + torch.arange(length)).to(hidden_states.device)
            attended[places] = attend(queries[places], keys[places], values[places]).to(attended.dtype)
        return self.proj(attended.reshape(hidden_states.shape))


class BatchedQwen25VisionAttention(BatchedWindows, Qwen2_5_VLVisionAttention):
    """Qwen2.5-VL's, windows batched."""


class BatchedQwen3VisionAttention(BatchedWindows, Qwen3VLVisionAttention):
    """Qwen3-VL's, images batched."""


class PatchesByProduct:
    """Replaces `forward` of transformers' patch embedding; weights and results are the same."""

    proj: nn.Conv3d

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """
        Args:
            hidden_states (`torch.Tensor` of shape `(patches, channels * frames * height * width)`).

        Returns:
            `torch.Tensor` of shape `(patches, width)`, in the dtype of the weights.
        """
        weight = self.proj.weight
        return nn.functional.linear(hidden_states.to(weight.dtype), weight.flatten(1), self.proj.bias)


class ProductQwen25PatchEmbed(PatchesByProduct, Qwen2_5_VisionPatchEmbed):
    """Qwen2.5-VL's, as a product."""


class ProductQwen3PatchEmbed(PatchesByProduct, Qwen3VLVisionPatchEmbed):
    """Qwen3-VL's, as a product."""


class PlacesOnceQwen25Vision(Qwen2_5_VisionTransformerPretrainedModel):
    """Qwen2.5-VL's vision tower, with the places of patches and windows kept between passes."""

    def forward(self, hidden_states: torch.Tensor, grid_thw: torch.Tensor, **kwargs: Any) -> Any:
        """
        Args:
            hidden_states (`torch.Tensor` of shape `(patches, channels * frames * height * width)`).
            grid_thw (`torch.LongTensor` of shape `(images, 3)`): frames, rows and columns of patches of each image.
        """
        sizes = tuple(tuple(grid) for grid in grid_thw.tolist())
        flash = is_flash_attention_requested(self.config)
        places = vision_places(
            sizes, self.spatial_merge_size, self.window_size, self.patch_size, hidden_states.device, flash
        )
        return super().forward(hidden_states, grid_thw, **{**places, **kwargs})


@lru_cache(maxsize=16)
def vision_places(
    sizes: tuple[tuple[int, ...], ...], merge: int, window: int, patch: int, device: torch.device, flash: bool
) -> dict[str, torch.Tensor]:
    """
    Where patches and windows of images are, as transformers' vision towers take them ready made.

    Args:
        sizes: Frames, rows and columns of patches of each image. merge (`int`), window (`int`), patch (`int`): of the
            tower. device: Of the patches. flash (`bool`): Whether attention itself reads `cu_seqlens`, on the device.
    """
    # Not as inference tensors, whoever asks first: a later backward pass could not save them.
    with torch.inference_mode(False):
        grid = torch.tensor(sizes)
        windows, window_ends = get_vision_window_index(grid, merge, window, patch)
        ends_on = device if flash else grid.device
        return {
            "position_ids": get_vision_position_ids(grid, merge).to(device),
            "window_index": windows.to(device),
            "cu_seqlens": get_vision_cu_seqlens(grid).to(ends_on),
            "cu_window_seqlens": window_ends.to(ends_on),
        }


FASTER = {
    Qwen2_5_VLVisionAttention: BatchedQwen25VisionAttention,
    Qwen3VLVisionAttention: BatchedQwen3VisionAttention,
    Qwen2_5_VisionPatchEmbed: ProductQwen25PatchEmbed,
    Qwen3VLVisionPatchEmbed: ProductQwen3PatchEmbed,
    Qwen2_5_VisionTransformerPretrainedModel: PlacesOnceQwen25Vision,
}


def speed_up_vision(vlm: nn.Module) -> None:
    """Puts the faster parts in place of transformers' own, in the whole vision tower of a planner."""
    for module in vlm.modules():
        faster = FASTER.get(type(module))  # pyright: ignore[reportArgumentType]
        if faster is not None:
            module.__class__ = faster  # same weights and fields; only `forward` differs


__all__ = ["speed_up_vision"]
