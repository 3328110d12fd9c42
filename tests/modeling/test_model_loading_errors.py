"""Damaged weights and configs are errors that name the place; nothing is ever filled with random numbers."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText

from modeling_st4vla import ST4VLAConfig, ST4VLAForActionPrediction
from training_st4vla.errors import UserError
from training_st4vla.loading import load_model

NAME = "action_expert.output_proj.bias"


@pytest.fixture
def folder(model: Any, processor: Any, tmp_path: Path) -> Path:
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def change_config(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def test_an_undamaged_copy_loads_bit_for_bit(folder: Path, model: Any) -> None:
    for cls in (AutoModel, AutoModelForImageTextToText):
        loaded = cls.from_pretrained(folder)
        assert type(loaded) is ST4VLAForActionPrediction
        assert not loaded.training
        weights = loaded.state_dict()
        assert weights.keys() == model.state_dict().keys()
        assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    _, report = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop(NAME), r"1 missing weight\(s\).*action_expert\.output_proj\.bias"),
        (lambda w: w.update(surprise=torch.zeros(2)), r"1 unexpected weight\(s\).*surprise"),
        (
            lambda w: w.update({NAME: torch.zeros(4)}),
            r"mis-shaped .*output_proj\.bias: expected \(3,\), found \(4,\)",
        ),
    ],
    ids=["missing", "unexpected", "misshapen"],
)
@pytest.mark.parametrize("ignore", [False, True], ids=["", "ignore_mismatched_sizes"])
def test_weights_that_do_not_fit_are_named(folder: Path, change: Callable, message: str, ignore: bool) -> None:
    change_weights(folder, change)
    with pytest.raises(ValueError, match=message):
        AutoModel.from_pretrained(folder, ignore_mismatched_sizes=ignore)
    with pytest.raises(ValueError, match=message):
        load_model(str(folder), device="cpu")


@pytest.mark.parametrize("damage", ["truncated", "no header", "empty"])
def test_damaged_weight_files_are_named(folder: Path, damage: str) -> None:
    path = folder / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes({"truncated": content[: len(content) // 2], "no header": b"x" * 4096, "empty": b""}[damage])
    with pytest.raises(SafetensorError):
        AutoModel.from_pretrained(folder)
    with pytest.raises(UserError, match=rf"{re.escape(str(folder))}: a weights file is damaged or truncated"):
        load_model(str(folder), device="cpu")


def test_a_missing_shard_is_named(model: Any, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path, max_shard_size="150KB")
    shard = sorted(tmp_path.glob("model-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(OSError, match=re.escape(shard.name)):
        AutoModel.from_pretrained(tmp_path)


def test_a_folder_without_weights_is_an_error(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(OSError, match=r"model\.safetensors"):
        AutoModel.from_pretrained(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(chunk_sise=8), r"unknown key\(s\) \['chunk_sise'\].*config\.json"),
        (lambda c: c["action_expert"].update(depth=8), r"action_expert: unknown key\(s\) \['depth'\].*hidden_size"),
        (lambda c: c.update(planner_layers=[3]), r"planner_layers: expected .*\[-3, 2\].*2 layers, found \[3\]"),
        (lambda c: c.update(planner_layers=[]), r"planner_layers: expected at least one"),
        (lambda c: c.update(query_num_heads=5), r"query_hidden_size: expected a multiple of its 5 .*found 32"),
        (lambda c: c["action_expert"].update(num_heads=3), r"action_expert\.hidden_size: expected a multiple"),
        (lambda c: c.update(gradient_decay=1.5), r"gradient_decay: expected a number in \[0, 1\], found 1\.5"),
        (lambda c: c.update(action_dim=0), r"action_dim: expected at least 1, found 0"),
        (lambda c: c.update(state_dim=0), r"state_dim: expected None or at least 1, found 0"),
        (lambda c: c.update(chunk_size="8"), r"chunk_size"),
        (lambda c: c.update(scheduler={"beta_start": 1}), r"scheduler: expected .*_class_name.*found keys \['beta_"),
    ],
)
def test_configs_that_do_not_fit_are_named(folder: Path, change: Callable, message: str) -> None:
    change_config(folder, change)
    with pytest.raises(Exception, match=message):  # huggingface_hub wraps ours into its own validation error
        AutoConfig.from_pretrained(folder)


def test_the_keys_of_lerobot_and_transformers_are_known() -> None:
    config = ST4VLAConfig(type="st4vla", n_action_steps=8, push_to_hub=False, _name_or_path="x", torch_dtype="float32")
    assert config.chunk_size == 16
    with pytest.raises(Exception, match="n_action_step'"):
        ST4VLAConfig(n_action_step=8)


@pytest.mark.parametrize("what", ["no folder content", "another model", "broken json"])
def test_folders_that_are_no_model_are_named(folder: Path, tmp_path: Path, what: str) -> None:
    if what == "no folder content":
        (tmp_path / "empty").mkdir()
        with pytest.raises(UserError, match=r"expected a model folder with config\.json, found none in .*empty"):
            load_model(str(tmp_path / "empty"))
    elif what == "another model":
        change_config(folder, lambda config: config.update(model_type="bert"))
        with pytest.raises(UserError, match=r"expected model_type 'st4vla' .*found 'bert'"):
            load_model(str(folder))
    else:
        (folder / "config.json").write_text("{broken")
        with pytest.raises(UserError, match=r"config\.json"):
            load_model(str(folder))


def test_a_plain_vlm_enters_as_the_planner(model: Any, build_model: Callable, tmp_path: Path) -> None:
    model.vlm.save_pretrained(tmp_path)
    other = build_model(seed=7)
    fresh = ST4VLAForActionPrediction.from_vlm(tmp_path, other.config)
    assert torch.equal(fresh.vlm.model.language_model.norm.weight, model.vlm.model.language_model.norm.weight)
    assert not torch.equal(fresh.vlm.lm_head.weight, other.vlm.lm_head.weight)
    assert (fresh.action_expert.output_proj.weight == 0).all()  # new parts start as designed, not as garbage
    assert fresh.query_transformer.query_tokens.std().item() == pytest.approx(1, abs=0.3)
    with pytest.raises(ValueError, match="missing weight"):
        ST4VLAForActionPrediction.from_pretrained(tmp_path, config=other.config)

    def drop(weights: dict[str, torch.Tensor]) -> None:
        del weights[next(name for name in weights if name.endswith("visual.merger.ln_q.weight"))]

    change_weights(tmp_path, drop)
    with pytest.raises(ValueError, match=r"1 missing weight\(s\).*vlm\.model\.visual\.merger\.ln_q\.weight"):
        ST4VLAForActionPrediction.from_vlm(tmp_path, other.config)
