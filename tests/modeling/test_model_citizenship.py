"""A saved folder is a whole model: a new process gets the same bits from it, with and without the project."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from by_hand import draw
from huggingface_hub import HfApi, RepoUrl

from training_st4vla.saving import save_portable

ROOT = Path(__file__).resolve().parents[2]
ROOTS = [str(ROOT), str(ROOT / "processing"), str(ROOT / "training")]


@pytest.fixture(scope="module")
def saved(
    tmp_path_factory: pytest.TempPathFactory,
    build_model: Callable,
    _small_processor: Any,
    make_contract: Callable,
    draw_view: Callable,
) -> tuple[Path, dict[str, np.ndarray]]:
    """A folder as every command writes it, in several shards, and what the model in this process computes."""
    import copy

    folder = tmp_path_factory.mktemp("citizen")
    model, processor = build_model(state_dim=4), copy.deepcopy(_small_processor)
    processor.lowercase_instruction = True
    processor.spatial_prompt = "box"
    processor.action_contracts = {"toy": make_contract()}
    save_portable(model, processor, folder / "my-model.v1", max_shard_size="150KB")
    given = {
        "front": draw_view(1),
        "wrist": draw_view(2, 64, 48),
        "state": np.array([[0.5, -1.0, 1.0, 3.0]]),
        "noise": draw(1, 5, 3).numpy(),
    }
    np.savez(folder / "given.npz", **given)
    inputs = processor(images=[[given["front"], given["wrist"]]], text=["push the BALL"], state=given["state"])
    actions = model.sample_actions(**inputs, noise=torch.from_numpy(given["noise"]))
    asked = processor.ground(images=[[given["front"]]], text=["where is the ball?"], kind="box")
    return folder, {
        "input_ids": inputs["input_ids"].numpy(),
        "actions": actions.numpy(),
        "same_actions": actions.numpy(),
        "units": processor.post_process_actions(actions),
        "tokens": model.generate(**asked, max_new_tokens=12, do_sample=False).numpy(),
    }


@pytest.mark.parametrize("mode", ["registered", "remote"])
def test_a_fresh_process_computes_the_same_bits(
    saved: tuple[Path, dict[str, np.ndarray]], tmp_path: Path, mode: str
) -> None:
    folder, expected = saved
    script, found = Path(__file__).with_name("fresh_process.py"), tmp_path / "found.npz"
    command = [sys.executable, "-I", str(script), mode, str(folder / "my-model.v1"), str(folder / "given.npz")]
    command += [str(found), str(torch.get_num_threads())]
    # Code copied out of model folders goes to a cache of its own, so that nothing older can serve.
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules")}
    done = subprocess.run(
        command + (ROOTS if mode == "registered" else []),
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    computed = dict(np.load(found))
    for name, value in expected.items():
        np.testing.assert_array_equal(computed[name], value, err_msg=name)
    places, imported = computed["modules"].tolist(), computed["imported"].tolist()
    if mode == "remote":
        assert imported == []
        assert all(place.startswith("transformers_modules.") for place in places)
    else:
        assert [place.split(".")[0] for place in places] == ["modeling_st4vla", "processing_st4vla"]


def test_the_folder_is_flat_sharded_and_complete(saved: tuple[Path, Any]) -> None:
    names = {path.name for path in (saved[0] / "my-model.v1").iterdir()}
    assert {"config.json", "generation_config.json", "processor_config.json", "tokenizer.json"} <= names
    assert {"modeling_st4vla.py", "processing_st4vla.py", "configuration_st4vla.py", "spatial.py"} <= names
    assert "model.safetensors.index.json" in names
    assert len([name for name in names if name.endswith(".safetensors")]) > 1
    assert not any(path.is_dir() for path in (saved[0] / "my-model.v1").iterdir())


def test_saving_leaves_the_objects_as_they_were(model: Any, processor: Any, tmp_path: Path) -> None:
    save_portable(model, processor, tmp_path / "first")
    assert not hasattr(model.config, "auto_map")
    model.save_pretrained(tmp_path / "plain")
    assert not list((tmp_path / "plain").glob("*.py"))  # only what asks for code carries code


class Uploads:
    """The two calls of the Hub that an upload makes, answered without a network."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.files: dict[str, set[str]] = {}
        monkeypatch.setattr(HfApi, "create_repo", lambda api, repo_id, **kwargs: RepoUrl(f"https://hf.co/{repo_id}"))
        monkeypatch.setattr(HfApi, "create_commit", lambda api, repo_id, operations, **kwargs: self.add(operations))

    def add(self, operations: list[Any]) -> None:
        for operation in operations:
            self.files[operation.path_in_repo] = Path(operation.path_or_fileobj).read_bytes()


def test_push_to_hub_uploads_model_and_processor(model: Any, processor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    uploads = Uploads(monkeypatch)
    model.push_to_hub("someone/robot")
    processor.push_to_hub("someone/robot")
    assert {"config.json", "model.safetensors", "processor_config.json", "tokenizer.json"} <= set(uploads.files)
    assert {"modeling_st4vla.py", "action_expert_st4vla.py", "processing_st4vla.py"} <= set(uploads.files)
    assert len(uploads.files["model.safetensors"]) > 4 * sum(p.numel() for p in model.vision_encoder.parameters())
