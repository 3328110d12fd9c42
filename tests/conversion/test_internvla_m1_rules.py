"""The rules of the InternVLA-M1 conversion: sizes, layers, both generations of names, contracts, and refusals."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

from training_st4vla.conversion.internvla_m1 import (
    build_config,
    contract_from_statistics,
)
from training_st4vla.conversion.internvla_m1_weights import convert_weights, resample_position_table
from training_st4vla.errors import UserError


def older_names(official: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The names that transformers before 4.52 gave to the planner's weights."""

    def rename(key: str) -> str:
        key = key.replace("qwen_vl_interface.model.model.visual.", "qwen_vl_interface.model.visual.")
        return key.replace("qwen_vl_interface.model.model.language_model.", "qwen_vl_interface.model.model.")

    return {rename(key): tensor for key, tensor in official.items()}


def test_both_generations_of_planner_names_give_the_same_weights(official: dict[str, torch.Tensor]) -> None:
    older = older_names(official)
    assert len(set(older) - set(official)) > 40  # the two generations do differ
    new, old = (convert_weights(weights, tied=True, grid=16)[0] for weights in (official, older))
    assert new.keys() == old.keys()
    assert all(torch.equal(new[name], old[name]) for name in new)


def test_every_key_is_mapped_or_named_dead(official: dict[str, torch.Tensor], make_run: Callable) -> None:
    model, _, dropped = make_run(official)
    assert sorted(dropped) == [f"action_model.net.history_embedder.linear.{part}" for part in ("bias", "weight")]
    # Nothing is lost: numbers in = numbers out + dead ones + the second copy of the head + the larger position table.
    table = official["dino_encoder.body.pos_embed"].numel() - (1 + 16 * 16) * 384
    head = official["qwen_vl_interface.model.lm_head.weight"].numel()
    dead = sum(official[name].numel() for name in dropped)
    assert (
        sum(p.numel() for p in model.parameters()) == sum(t.numel() for t in official.values()) - dead - head - table
    )


def test_stacked_projections_are_split_in_order(official: dict[str, torch.Tensor]) -> None:
    converted, _ = convert_weights(official, tied=True, grid=16)
    for source, target in (
        ("layer_qformer.layers.0.cross_attn.in_proj_weight", "query_transformer.blocks.0.cross_attn.{}.weight"),
        ("action_model.net.blocks.1.attn.qkv.bias", "action_expert.blocks.1.attn.{}.bias"),
        ("dino_encoder.body.blocks.0.attn.qkv.weight", "vision_encoder.encoder.layer.0.attention.{}.weight"),
    ):
        parts = [converted[target.format(part)] for part in ("q_proj", "k_proj", "v_proj")]
        assert torch.equal(torch.cat(parts), official[source])


def test_an_unknown_key_is_an_error(official: dict[str, torch.Tensor], make_run: Callable) -> None:
    with pytest.raises(UserError, match=r"1 key\(s\).*action_model\.net\.surprise\.weight"):
        make_run({**official, "action_model.net.surprise.weight": torch.zeros(2)})


def test_a_missing_key_is_an_error(official: dict[str, torch.Tensor], make_run: Callable) -> None:
    with pytest.raises(UserError, match=r"missing \['vision_projector\.bias'\]"):
        make_run({name: tensor for name, tensor in official.items() if name != "dino_pro.bias"})


def test_a_misshapen_weight_is_an_error(official: dict[str, torch.Tensor], make_run: Callable) -> None:
    with pytest.raises(UserError, match=r"vision_projector\.bias: expected \(128,\), found \(127,\)"):
        make_run({**official, "dino_pro.bias": torch.zeros(127)})


def test_a_tied_head_saved_twice_must_be_a_copy(official: dict[str, torch.Tensor]) -> None:
    name = "qwen_vl_interface.model.lm_head.weight"
    converted, _ = convert_weights(official, tied=True, grid=16)
    assert "vlm.lm_head.weight" not in converted
    without, _ = convert_weights({k: v for k, v in official.items() if k != name}, tied=True, grid=16)
    assert without.keys() == converted.keys()
    changed = {**official, name: official[name] + 1}
    with pytest.raises(UserError, match=r"lm_head\.weight differs from the embedding table"):
        convert_weights(changed, tied=True, grid=16)
    untied, _ = convert_weights(changed, tied=False, grid=16)
    assert torch.equal(untied["vlm.lm_head.weight"], changed[name])


@pytest.mark.parametrize(
    ("name", "width", "layers", "heads"),
    [("dinov2_vits14", 384, 12, 6), ("dinov2_vitb14", 768, 12, 12), ("dinov2_vitl14", 1024, 24, 16)],
)
def test_dino_names_and_sizes(
    official: dict, run_config: dict, golden: Path, name: str, width: int, layers: int, heads: int
) -> None:
    # Only shapes are read here, so tensors without storage do: ViT-L has 0.3 G parameters.
    weights = {key: tensor for key, tensor in official.items() if not key.startswith("dino_encoder.")}
    weights["dino_encoder.body.cls_token"] = torch.empty(1, 1, width, device="meta")
    for layer in range(layers):
        weights[f"dino_encoder.body.blocks.{layer}.norm1.bias"] = torch.empty(width, device="meta")
    run_config["framework"]["dino"] = {"dino_backbone": name}
    vlm = AutoConfig.from_pretrained(golden / "base_vlm")
    config = build_config(weights, run_config, vlm).vision_encoder_config
    found = (config.hidden_size, config.num_hidden_layers, config.num_attention_heads)
    assert found == (width, layers, heads)
    assert (config.patch_size, config.image_size) == (14, 224)
    del weights[f"dino_encoder.body.blocks.{layers - 1}.norm1.bias"]
    with pytest.raises(UserError, match=rf"dino_backbone.*'{name}' with width {width} and {layers - 1} layers"):
        build_config(weights, run_config, vlm)


def test_position_table_is_resampled_as_in_torch_hub() -> None:
    # A ramp stays nearly a ramp (torch's cubic kernel is off by up to 0.05); where it is read tells the scale,
    # (grid + 0.1) / side in torch.hub's DINOv2: on the right, 0.2 away from what grid / side would read.
    side, grid = 37, 16
    ramp = torch.arange(side, dtype=torch.float32).expand(side, side)
    table = torch.cat([torch.full((1, 1, 2), 9.0), torch.stack([ramp, ramp.T], dim=-1).reshape(1, -1, 2)], dim=1)
    resampled = resample_position_table(table, grid)
    assert resampled.shape == (1, 1 + grid * grid, 2)
    assert torch.equal(resampled[:, 0], table[:, 0])  # the class token has no place
    planes = resampled[0, 1:].reshape(grid, grid, 2)
    columns = (torch.arange(grid) + 0.5) * side / (grid + 0.1) - 0.5
    torch.testing.assert_close(planes[5, 1:-1, 0], columns[1:-1], rtol=0, atol=0.06)
    torch.testing.assert_close(planes[1:-1, 5, 1], columns[1:-1], rtol=0, atol=0.06)
    assert torch.equal(resample_position_table(resampled, grid), resampled)


@pytest.mark.parametrize("chunk", [8, 16])
def test_several_planner_layers_and_both_chunk_sizes(
    official: dict, run_config: dict, make_run: Callable, chunk: int
) -> None:
    weights = dict(official)
    for key, tensor in official.items():
        if key.startswith("layer_qformer.layers.0."):
            weights[key.replace("layers.0.", "layers.1.")] = tensor + 1
    positions = "action_model.net.positional_embedding"
    weights[positions] = official[positions][: 64 + chunk]
    run_config["framework"]["layer_qformer"] |= {"qformer_start_layer": 2, "qformer_end_layer": 4}
    run_config["framework"]["action_model"]["future_action_window_size"] = chunk - 1
    model, processor, _ = make_run(weights, run_config)
    assert model.config.planner_layers == [2, 3]
    assert len(model.query_transformer.blocks) == 2
    second = model.query_transformer.blocks[1].fc1.bias
    assert torch.equal(second, official["layer_qformer.layers.0.mlp.0.bias"] + 1)
    assert model.config.chunk_size == processor.contract().chunk_size == chunk
    assert model.sample_actions(**processor(images=torch.rand(3, 64, 64), text="go")).shape == (1, chunk, 7)


def test_sizes_that_contradict_the_run_config_are_errors(official: dict, run_config: dict, golden: Path) -> None:
    vlm, framework = AutoConfig.from_pretrained(golden / "base_vlm"), run_config["framework"]
    framework["layer_qformer"]["qformer_start_layer"] = 2
    with pytest.raises(UserError, match=r"selects layers 2\.\.4 \(2\), the weights hold 1"):
        build_config(official, run_config, vlm)
    framework["layer_qformer"]["qformer_start_layer"] = 3
    framework["action_model"]["future_action_window_size"] = 7
    with pytest.raises(UserError, match=r"chunk of 8 .*position table of 72, the weights hold 80"):
        build_config(official, run_config, vlm)


def test_statistics_become_a_contract(official: dict, run_config: dict, golden: Path) -> None:
    config = build_config(official, run_config, AutoConfig.from_pretrained(golden / "base_vlm"))
    statistics = json.loads((golden / "run" / "dataset_statistics.json").read_text())["franka"]
    contract = contract_from_statistics("franka", statistics, config)
    assert contract.action.normalization == ("q99",) * 6 + ("binary",)
    assert contract.action.statistics["q01"] == tuple(statistics["action"]["q01"])
    assert contract.gripper_dims == (6,)
    # What the run does not say is unknown, and training must ask for it.
    assert {"representation", "frame", "rotation", "gripper_polarity", "control_hz", "cameras"} <= set(
        contract.unknown_fields
    )
    with pytest.raises(ValueError, match="--contract FILE"):
        contract.require_known("training")
    for field in ("q01", "mask"):
        short = {"action": {**statistics["action"], field: statistics["action"][field][:6]}}
        with pytest.raises(UserError, match=r"\['franka'\]\.action: expected q01, q99 and mask of 7 entries"):
            contract_from_statistics("franka", short, config)


def test_the_prompt_is_kept_verbatim(official: dict, run_config: dict, make_run: Callable) -> None:
    assert make_run(official)[1].spatial_prompt == run_config["datasets"]["vla_data"]["CoT_prompt"]
    run_config["datasets"]["vla_data"]["CoT_prompt"] = "Now {instruction}!"
    processor = make_run(official, run_config)[1]
    words = processor.tokenizer.decode(processor(images=torch.rand(3, 64, 64), text="GO There")["input_ids"][0])
    assert "Now go there!" in words  # and the instruction in lower case, as the official inference code does
