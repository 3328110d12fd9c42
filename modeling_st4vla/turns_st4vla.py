"""
Several questions about one image in one sequence, each as if it were asked alone.

A sequence is `[images][question 1, answer 1][question 2, answer 2]...`: every turn sees the images and itself, and its
positions go on from the images. So states and losses are those of separate sequences, while the images, most of the
work of a short question, are computed once.
"""

from typing import Any

import torch

from .turn_attention_st4vla import BY_TURNS, blocks_of_turns


def separate_turns(
    planner: Any,
    input_ids: torch.LongTensor,
    turn_ids: torch.LongTensor,
    attention_mask: torch.Tensor,
    mm_token_type_ids: torch.Tensor,
    image_grid_thw: torch.LongTensor,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Any]:
    """
    What the planner has to be given for turns that do not see each other.

    Args:
        planner: `Qwen2_5_VLModel` or another that has its `get_rope_index`.
        input_ids (`torch.LongTensor` of shape `(batch, length)`).
        turn_ids (`torch.LongTensor` of shape `(batch, length)`): 0 at what all turns share, which comes first, then 1
            in the first turn, 2 in the second, ...; any value at padding, which comes last.
        attention_mask (`torch.Tensor` of shape `(batch, length)`): 0 at padding.
        mm_token_type_ids (`(batch, length)`), image_grid_thw (`(images, 3)`): of the processor.
        dtype (`torch.dtype`): of the attention scores.

    Returns:
        `position_ids` `(3, batch, length)` and `attention_mask` `(batch, 1, length, length)`, which is added to the
        attention scores. With attention `by_turns` there are `turn_blocks`, and the mask is the one that was given, of
        shape `(batch, 1, 1, length)`: nothing is added.

    Raises:
        ValueError: with flash attention, which takes no such mask.
    """
    if "flash" in str(planner.config._attn_implementation):
        raise ValueError(
            "turn_ids: several questions per image need attn_implementation 'by_turns', 'sdpa' or 'eager', found "
            f"{planner.config._attn_implementation!r}."
        )
    length = input_ids.shape[1]
    place = torch.arange(length, device=input_ids.device)
    begins = torch.ones_like(turn_ids, dtype=torch.bool)
    begins[:, 1:] = turn_ids[:, 1:] != turn_ids[:, :-1]
    start = torch.where(begins, place, 0).cummax(dim=1).values
    real = attention_mask.bool()
    shared = (turn_ids == 0) & real
    lengths = shared.sum(dim=1)
    head = _positions_of_images(planner, input_ids, mm_token_type_ids, image_grid_thw, lengths)
    # After the images positions grow by one per token. Each turn starts where the first one does.
    positions = head.gather(2, lengths.expand(3, -1)[..., None]) + place - start
    known = head.shape[2]
    positions[..., :known] = torch.where(shared[:, :known], head, positions[..., :known])
    positions = positions.masked_fill(~real, 0)
    if planner.config._attn_implementation == BY_TURNS:
        blocks = blocks_of_turns(turn_ids, attention_mask)
        # With four dimensions it is taken as it is; of one with two the planner would make scores for all pairs.
        return {"position_ids": positions, "attention_mask": attention_mask[:, None, None], "turn_blocks": blocks}

    sees = shared[:, None, :] | (turn_ids[:, :, None] == turn_ids[:, None, :])
    sees = sees & real[:, None, :] & (place[:, None] >= place)
    # Padding sees itself: a row that sees nothing would be NaN and spread.
    sees = sees | torch.eye(length, dtype=torch.bool, device=sees.device)
    mask = torch.zeros(sees.shape, dtype=dtype, device=sees.device).masked_fill(~sees, torch.finfo(dtype).min)
    return {"position_ids": positions, "attention_mask": mask[:, None]}


def without_padding(inputs: dict[str, Any]) -> dict[str, Any]:
    """
    Rows of a batch one after the other in a single one: of images with different questions a fifth can be padding.

    Args:
        inputs: of the planner, with what [`separate_turns`] gave for attention `by_turns`, which tells rows apart.
            With `labels`, -100 at the first token of each row.

    Returns:
        The same inputs of shape `(1, tokens)`.
    """
    real = inputs["attention_mask"][:, 0, 0].bool()
    flat = {name: inputs[name][real][None] for name in ("input_ids", "labels", "mm_token_type_ids") if name in inputs}
    return {
        **inputs,
        **flat,
        "position_ids": inputs["position_ids"][:, real][:, None],
        "attention_mask": torch.ones_like(flat["input_ids"])[:, None, None],
        "turn_blocks": inputs["turn_blocks"].without_padding(real),
    }


def _positions_of_images(
    planner: Any,
    input_ids: torch.Tensor,
    mm_token_type_ids: torch.Tensor,
    image_grid_thw: torch.Tensor,
    lengths: torch.Tensor,
) -> torch.Tensor:
    """
    Positions of what the turns of each sample share, `lengths` tokens, and of the token after it: `(3, batch, most)`.

    On the CPU, and for one sample where all are alike: the planner walks through the samples in Python, and would wait
    for the device several times in each.
    """
    device, batch = input_ids.device, len(input_ids)
    lengths, grids = lengths.cpu(), image_grid_thw.cpu()
    known = torch.arange(int(lengths.max()) + 1) <= lengths[:, None]
    ids, types = (tensor[:, : known.shape[1]].cpu() for tensor in (input_ids, mm_token_type_ids))
    if all(bool((tensor == tensor[:1]).all()) for tensor in (lengths, types, grids)):
        ids, types, known, grids = ids[:1], types[:1], known[:1], grids[: len(grids) // batch]
    positions, _ = planner.get_rope_index(
        ids, mm_token_type_ids=types, image_grid_thw=grids, attention_mask=known.to(input_ids.dtype)
    )
    return positions.expand(-1, batch, -1).to(device)


__all__ = ["separate_turns", "without_padding"]
