"""The faster vision tower computes what transformers' own computes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from modeling_st4vla.vision_tower_st4vla import FASTER, speed_up_vision


def _own_parts(tower: Any) -> int:
    """Puts transformers' parts back; returns how many were ours."""
    own = {faster: slower for slower, faster in FASTER.items()}
    ours = [module for module in tower.modules() if type(module) in own]
    for module in ours:
        module.__class__ = own[type(module)]
    return len(ours)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("grid", [[[1, 8, 8]], [[1, 8, 8], [1, 8, 8]], [[1, 10, 6]], [[1, 6, 14], [1, 8, 4]]])
def test_windows_of_any_lengths_agree_with_the_loop(model: Any, grid: list, implementation: str) -> None:
    model.set_attn_implementation(implementation)
    tower = model.vlm.model.visual
    shape = torch.tensor(grid)
    patches = torch.randn(int(shape.prod(dim=1).sum()), 1176, generator=torch.Generator().manual_seed(0))
    runs = []
    for _ in range(2):
        pixels = patches.clone().requires_grad_()
        states = tower(pixels, grid_thw=shape).last_hidden_state
        states.square().sum().backward()
        runs.append((states.detach(), pixels.grad))
        replaced = _own_parts(tower)
    assert replaced == 0  # the second run was transformers' own
    for ours, theirs in zip(*runs, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4 * float(theirs.abs().max()))


def test_every_block_of_a_model_has_them_and_a_saved_one_too(model: Any, tmp_path: Any) -> None:
    from modeling_st4vla import ST4VLAForActionPrediction

    model.save_pretrained(tmp_path)
    loaded = ST4VLAForActionPrediction.from_pretrained(tmp_path)
    depth = model.config.vlm_config.vision_config.depth
    assert _own_parts(loaded.vlm) == depth + 2 == 4


def test_places_first_made_out_for_an_answer_serve_training_too(model: Any) -> None:
    tower = model.vlm.model.visual
    grid = torch.tensor([[1, 12, 20]])  # a size that no other test uses
    patches = torch.randn(240, 1176, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        tower(patches, grid_thw=grid)
    tower(patches, grid_thw=grid).pooler_output.sum().backward()
    assert tower.patch_embed.proj.weight.grad.any()


def test_qwen3_vl_images_agree_with_the_loop() -> None:
    from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLVisionConfig
    from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionModel

    sizes = {"depth": 2, "hidden_size": 32, "num_heads": 2, "intermediate_size": 48, "out_hidden_size": 16}
    torch.manual_seed(0)
    tower = Qwen3VLVisionModel(Qwen3VLVisionConfig(**sizes, deepstack_visual_indexes=[0])).eval()
    grid = torch.tensor([[1, 4, 6], [1, 4, 4], [1, 4, 6]])
    pixels = torch.randn(int(grid.prod(dim=1).sum()), 3 * 2 * tower.config.patch_size**2)
    expected = tower(pixels, grid_thw=grid).last_hidden_state
    speed_up_vision(tower)
    assert {type(block.attn).__name__ for block in tower.blocks} == {"BatchedQwen3VisionAttention"}
    assert type(tower.patch_embed).__name__ == "ProductQwen3PatchEmbed"
    assert torch.allclose(tower(pixels, grid_thw=grid).last_hidden_state, expected, atol=1e-5)


def test_fewer_calls(model: Any, make_inputs: Callable) -> None:
    """Six images in four windows each: one call per layer."""
    calls = 0
    original = torch.nn.functional.scaled_dot_product_attention

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        return original(*args, **kwargs)

    inputs = make_inputs(2, 2, 2)
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", counted)
        model.vlm.model.visual(inputs["pixel_values"], grid_thw=inputs["image_grid_thw"])
    assert calls == model.config.vlm_config.vision_config.depth
