"""Attention turn by turn is attention under the mask of the turns."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from modeling_st4vla.turn_attention_st4vla import TurnBlocks, attention_by_turns, blocks_of_turns

# Lengths of what is shared and of the turns behind it, row by row.
LAYOUTS = [
    [[5, 3]],
    [[4, 1, 1, 1], [4, 7]],
    [[2, 6, 3, 9], [8, 2], [1, 4, 4]],
    [[3, *range(1, 12)], [6, 5, 5, 5, 5, 5, 5]],
]


def laid_out(layout: list[list[int]], padding: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Turn ids and attention mask; at padding the ids are of no turn that there is."""
    length = max(sum(row) for row in layout) + padding
    turns = torch.full((len(layout), length), 99)
    for at, row in enumerate(layout):
        turns[at, : sum(row)] = torch.tensor([turn for turn, size in enumerate(row) for _ in range(size)])
    return turns, (turns != 99).long()


def inputs(layout: list[list[int]], length: int, heads: int, key_heads: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(len(layout))
    shapes = [(len(layout), count, length, 8) for count in (heads, key_heads, key_heads)]
    return [torch.randn(shape, generator=generator, requires_grad=True) for shape in shapes]


def with_one_mask(parts: list[torch.Tensor], turns: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """`(batch, length, heads, head_dim)`, every token against every other, by torch's own attention."""
    place = torch.arange(turns.shape[1])
    sees = (turns[:, None, :] == 0) | (turns[:, :, None] == turns[:, None, :])
    sees = sees & real.bool()[:, None, :] & (place[:, None] >= place)
    sees = sees | torch.eye(len(place), dtype=torch.bool)
    return F.scaled_dot_product_attention(*parts, attn_mask=sees[:, None], enable_gqa=True).transpose(1, 2)


def by_turns(parts: list[torch.Tensor], blocks: TurnBlocks) -> torch.Tensor:
    return attention_by_turns(torch.nn.Identity(), *parts, attention_mask=None, turn_blocks=blocks)[0]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_one_after_the_other_are_the_rows(layout: Any) -> None:
    turns, real = laid_out(layout)
    parts, seen = inputs(layout, turns.shape[1], 4, 2), real.bool()
    blocks = blocks_of_turns(turns, real)
    rows = by_turns(parts, blocks)[seen]
    one = [part.transpose(1, 2)[seen].transpose(0, 1)[None] for part in parts]
    torch.testing.assert_close(by_turns(one, blocks.without_padding(seen))[0], rows)


@pytest.mark.parametrize(("heads", "key_heads"), [(4, 4), (4, 2)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_results_and_gradients_are_those_of_one_mask(layout: Any, heads: int, key_heads: int) -> None:
    turns, real = laid_out(layout)
    found = []
    for attend in (
        lambda parts: with_one_mask(parts, turns, real),
        lambda parts: by_turns(parts, blocks_of_turns(turns, real)),
    ):
        parts = inputs(layout, turns.shape[1], heads, key_heads)
        states = attend(parts)[real.bool()]
        states.square().sum().backward()
        found.append((states.detach(), *(part.grad for part in parts)))
    for expected, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_token_is_a_query_once_and_turns_are_computed_once(layout: Any) -> None:
    turns, real = laid_out(layout)
    blocks, back = blocks_of_turns(turns, real)
    places = torch.cat([block.queries.flatten() for block in blocks])
    flat = real.flatten().bool()
    assert torch.equal(places[back][flat], torch.arange(real.numel())[flat])
    assert [len(blocks[0].queries), sum(len(block.queries) for block in blocks[1:])] == [
        len(layout),
        sum(len(row) - 1 for row in layout),
    ]


def test_without_turns_it_is_the_usual_attention() -> None:
    parts = inputs(LAYOUTS[0], 8, 4, 2)
    added = torch.zeros(8, 8).masked_fill(torch.ones(8, 8).triu(1).bool(), torch.finfo(torch.float32).min)
    ours, weights = attention_by_turns(torch.nn.Identity(), *parts, attention_mask=added[None, None])
    query, key, value = parts
    usual = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True).transpose(1, 2)
    torch.testing.assert_close(ours, usual, rtol=1e-4, atol=1e-5)
    assert weights is None


def test_dropout_is_that_of_training_alone() -> None:
    parts = inputs(LAYOUTS[0], 8, 4, 4)
    dropped = attention_by_turns(torch.nn.Identity(), *parts, attention_mask=None, dropout=1.0)[0]
    assert not dropped.any()
