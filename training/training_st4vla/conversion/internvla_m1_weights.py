"""Weight names of InternVLA-M1 checkpoints → those of ST4VLA. Every key is mapped, dropped by name, or an error."""

import re
from collections.abc import Callable

import torch
import torch.nn.functional as F

from training_st4vla.errors import UserError

# Parameters that no forward pass of the official code reads.
DEAD_PARAMETERS = (r"action_model\.net\.history_embedder\.linear\.(weight|bias)",)

_QKV = ("q_proj", "k_proj", "v_proj")

# (pattern, replacement). A replacement with `{qkv}` marks a stacked projection that is split into three. The first two
# rows serve Qwen2.5-VL names from transformers >= 4.52, the next three the older generation.
_RENAMES: tuple[tuple[str, str], ...] = (
    (r"qwen_vl_interface\.model\.model\.(visual|language_model)\.(.+)", r"vlm.model.\1.\2"),
    (r"qwen_vl_interface\.model\.lm_head\.weight", r"vlm.lm_head.weight"),
    (r"qwen_vl_interface\.model\.visual\.(.+)", r"vlm.model.visual.\1"),
    (r"qwen_vl_interface\.model\.model\.(embed_tokens|layers|norm)\.(.+)", r"vlm.model.language_model.\1.\2"),
    (r"layer_qformer\.query_tokens", r"query_transformer.query_tokens"),
    (r"layer_qformer\.proj\.(.+)", r"query_transformer.input_proj.\1"),
    (r"layer_qformer\.layers\.(\d+)\.(norm[12])\.(.+)", r"query_transformer.blocks.\1.\2.\3"),
    (
        r"layer_qformer\.layers\.(\d+)\.cross_attn\.in_proj_(weight|bias)",
        r"query_transformer.blocks.\1.cross_attn.{qkv}.\2",
    ),
    (r"layer_qformer\.layers\.(\d+)\.cross_attn\.out_proj\.(.+)", r"query_transformer.blocks.\1.cross_attn.o_proj.\2"),
    (r"layer_qformer\.layers\.(\d+)\.mlp\.0\.(.+)", r"query_transformer.blocks.\1.fc1.\2"),
    (r"layer_qformer\.layers\.(\d+)\.mlp\.2\.(.+)", r"query_transformer.blocks.\1.fc2.\2"),
    (r"dino_pro\.(.+)", r"vision_projector.\1"),
    (r"dino_encoder\.body\.cls_token", r"vision_encoder.embeddings.cls_token"),
    (r"dino_encoder\.body\.mask_token", r"vision_encoder.embeddings.mask_token"),
    (r"dino_encoder\.body\.pos_embed", r"vision_encoder.embeddings.position_embeddings"),
    (r"dino_encoder\.body\.patch_embed\.proj\.(.+)", r"vision_encoder.embeddings.patch_embeddings.projection.\1"),
    (r"dino_encoder\.body\.norm\.(.+)", r"vision_encoder.layernorm.\1"),
    (r"dino_encoder\.body\.blocks\.(\d+)\.attn\.qkv\.(.+)", r"vision_encoder.encoder.layer.\1.attention.{qkv}.\2"),
    (r"dino_encoder\.body\.blocks\.(\d+)\.attn\.proj\.(.+)", r"vision_encoder.encoder.layer.\1.attention.o_proj.\2"),
    (r"dino_encoder\.body\.blocks\.(\d+)\.ls([12])\.gamma", r"vision_encoder.encoder.layer.\1.layer_scale\2.lambda1"),
    (r"dino_encoder\.body\.blocks\.(\d+)\.(norm[12]|mlp\.fc[12])\.(.+)", r"vision_encoder.encoder.layer.\1.\2.\3"),
    (r"action_model\.net\.positional_embedding", r"action_expert.position_embeddings"),
    (r"action_model\.net\.x_embedder\.linear\.(.+)", r"action_expert.action_embedder.\1"),
    (r"action_model\.net\.t_embedder\.mlp\.0\.(.+)", r"action_expert.timestep_embedder.fc1.\1"),
    (r"action_model\.net\.t_embedder\.mlp\.2\.(.+)", r"action_expert.timestep_embedder.fc2.\1"),
    (r"action_model\.net\.z_embedder\.uncondition", r"action_expert.unconditional"),
    (r"action_model\.net\.z_embedder\.linear\.(.+)", r"action_expert.condition_embedder.\1"),
    (r"action_model\.net\.blocks\.(\d+)\.attn\.qkv\.(.+)", r"action_expert.blocks.\1.attn.{qkv}.\2"),
    (r"action_model\.net\.blocks\.(\d+)\.attn\.proj\.(.+)", r"action_expert.blocks.\1.attn.o_proj.\2"),
    (r"action_model\.net\.blocks\.(\d+)\.mlp\.(fc[12])\.(.+)", r"action_expert.blocks.\1.\2.\3"),
    (r"action_model\.net\.final_layer\.linear\.(.+)", r"action_expert.output_proj.\1"),
)


def convert_weights(
    official: dict[str, torch.Tensor], tied: bool, grid: int
) -> tuple[dict[str, torch.Tensor], list[str]]:
    """
    Renames, splits and resamples official weights.

    Args:
        official (`dict[str, torch.Tensor]`): the official state dict.
        tied (`bool`): whether the planner ties its language head to its embeddings; a saved copy of the head must then
            equal them, and is dropped.
        grid (`int`): patches per side of the DINOv2 position table to write.

    Returns:
        The converted weights, and the names of the dead parameters that were dropped.

    Raises:
        UserError: for a key that is neither mapped nor listed as dead, or a tied head that differs.
    """
    converted: dict[str, torch.Tensor] = {}
    dropped, unknown = [], []
    for key, tensor in official.items():
        if any(re.fullmatch(pattern, key) for pattern in DEAD_PARAMETERS):
            dropped.append(key)
            continue
        name = _rename(key)
        if name is None:
            unknown.append(key)
        elif "{qkv}" in name:
            for part, chunk in zip(_QKV, tensor.chunk(3), strict=True):
                converted[name.replace("{qkv}", part)] = chunk.clone()
        else:
            converted[name] = tensor
    if unknown:
        raise UserError(
            f"checkpoint: {len(unknown)} key(s) that this conversion does not know, such as {sorted(unknown)[:5]}. "
            "Expected the keys of an InternVLA-M1 state dict (qwen_vl_interface, layer_qformer, action_model, "
            "dino_encoder, dino_pro). Nothing was written."
        )
    _untie(converted, tied)
    table = "vision_encoder.embeddings.position_embeddings"
    if table in converted:
        converted[table] = resample_position_table(converted[table], grid)
    return converted, dropped


def _rename(key: str) -> str | None:
    for pattern, replacement in _RENAMES:
        match = re.fullmatch(pattern, key)
        if match:
            return match.expand(replacement)
    return None


def _untie(weights: dict[str, torch.Tensor], tied: bool) -> None:
    if not tied or "vlm.lm_head.weight" not in weights:
        return
    head, embeddings = weights.pop("vlm.lm_head.weight"), weights["vlm.model.language_model.embed_tokens.weight"]
    if not torch.equal(head, embeddings):
        raise UserError(
            "checkpoint: qwen_vl_interface.model.lm_head.weight differs from the embedding table, but the base VLM's "
            "config ties them (tie_word_embeddings=true). Expected equal copies; check that --base-vlm is the VLM "
            "this run started from."
        )


def resample_position_table(table: torch.Tensor, grid: int) -> torch.Tensor:
    """
    DINOv2's position table `(1, 1 + n * n, width)` resampled to `grid` x `grid` patches, as torch.hub's DINOv2 does.

    The original adds 0.1 to the target size before it computes the bicubic scale (`interpolate_offset`), which
    transformers' own interpolation does not; done once here, the converted model needs none.
    """
    classes, patches = table[:, :1], table[:, 1:].float()
    side = round(patches.shape[1] ** 0.5)
    if side == grid:
        return table
    planes = patches.unflatten(1, (side, side)).permute(0, 3, 1, 2)
    scale = (grid + 0.1) / side
    planes = F.interpolate(planes, scale_factor=(scale, scale), mode="bicubic", antialias=False)
    resampled = planes.permute(0, 2, 3, 1).flatten(1, 2)
    return torch.cat([classes.float(), resampled], dim=1)


def count_layers(keys: list[str], pattern: str) -> int:
    """One more than the largest layer number that `pattern` (with one group) finds among `keys`; 0 without a match."""
    search: Callable = re.compile(pattern).match
    found = [int(match.group(1)) for key in keys if (match := search(key))]
    return max(found, default=-1) + 1


__all__ = ["DEAD_PARAMETERS", "convert_weights", "count_layers", "resample_position_table"]
