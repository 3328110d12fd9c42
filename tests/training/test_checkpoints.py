"""A kill at any moment of a save: half a checkpoint is passed over, and said so."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def write_checkpoint() -> Callable[..., Path]:
    """Writes the files of a whole checkpoint with a moving average."""
    import torch
    from safetensors.torch import save_file

    def write(run: Path, step: int) -> Path:
        folder = run / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        save_file({"weight": torch.zeros(100)}, folder / "model.safetensors")
        for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", "ema.pt"):
            torch.save({"values": torch.zeros(100)}, folder / name)
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": step, "log_history": []}, indent=2))
        return folder

    return write


def cut(path: Path) -> None:
    """Leaves the first half of a file."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(
    ("name", "damage", "fault"),
    [
        ("trainer_state.json", Path.unlink, "no trainer_state.json"),
        ("trainer_state.json", cut, "trainer_state.json cannot be read to its end"),
        ("ema.pt", Path.unlink, "no ema.pt"),
        ("ema.pt", cut, "ema.pt cannot be read to its end"),
        ("model.safetensors", Path.unlink, "no weights"),
        ("model.safetensors", cut, "model.safetensors cannot be read to its end"),
        ("optimizer.pt", Path.unlink, "no optimizer state"),
        ("optimizer.pt", cut, "optimizer.pt cannot be read to its end"),
        ("rng_state.pth", Path.unlink, "no random state"),
    ],
)
def test_an_incomplete_checkpoint_is_passed_over_for_an_older_one(
    name: str,
    damage: Callable[[Path], None],
    fault: str,
    tmp_path: Path,
    write_checkpoint: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    from training_st4vla.commands.checkpoints import last_complete_checkpoint

    older = write_checkpoint(tmp_path, 9)
    damage(write_checkpoint(tmp_path, 10) / name)
    assert last_complete_checkpoint(tmp_path, "ema.pt") == older
    assert f"checkpoint-10: incomplete ({fault}), passed over and kept as incomplete-10" in capsys.readouterr().err
    assert (tmp_path / "incomplete-10").is_dir()
    damage(write_checkpoint(tmp_path, 10) / name)  # killed at the same place again
    assert last_complete_checkpoint(tmp_path, "ema.pt") == older
    assert (tmp_path / "incomplete-10-2").is_dir()


def test_a_whole_checkpoint_is_taken(tmp_path: Path, write_checkpoint: Callable[..., Path]) -> None:
    from training_st4vla.commands.checkpoints import last_complete_checkpoint

    newest = write_checkpoint(tmp_path, 10)
    write_checkpoint(tmp_path, 9)
    assert last_complete_checkpoint(tmp_path, "ema.pt") == newest
    (newest / "ema.pt").unlink()
    assert last_complete_checkpoint(tmp_path) == newest  # a run without an average


def test_a_missing_shard_is_a_fault(tmp_path: Path, write_checkpoint: Callable[..., Path]) -> None:
    from training_st4vla.commands.checkpoints import find_fault

    folder = write_checkpoint(tmp_path, 1)
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    for name in shards.values():
        shutil.copy(folder / "model.safetensors", folder / name)
    (folder / "model.safetensors").unlink()
    assert find_fault(folder) is None
    (folder / shards["b"]).unlink()
    assert find_fault(folder) == "model.safetensors.index.json cannot be read to its end"


def test_a_run_without_a_whole_checkpoint_starts_at_the_beginning(
    tmp_path: Path, write_checkpoint: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    from training_st4vla.commands.runs import claim_run_folder

    run, identity = tmp_path / "run", {"arguments": {"model": "tiny"}}
    assert claim_run_folder(run, identity) is None
    assert capsys.readouterr().err == ""
    assert claim_run_folder(run, identity) is None
    assert "run: no whole checkpoint, starting at the beginning." in capsys.readouterr().err
    cut(write_checkpoint(run, 5) / "trainer_state.json")
    assert claim_run_folder(run, identity) is None
    said = capsys.readouterr().err
    assert "checkpoint-5: incomplete" in said
    assert "starting at the beginning" in said


def test_the_trainers_own_checkpoints_are_whole_and_the_state_comes_last(
    tmp_path: Path, train: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.trainer_callback import TrainerState

    from training_st4vla.commands.checkpoints import find_fault, last_complete_checkpoint

    settings = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1, "save_total_limit": 1, "ema_decay": 0.9}
    found: list[str | None] = []
    write_state = TrainerState.save_to_json

    def look_first(self: TrainerState, path: str) -> None:
        found.append(find_fault(Path(path).parent, "ema.pt"))
        if self.global_step == 2:
            raise KeyboardInterrupt  # the kill
        write_state(self, path)

    monkeypatch.setattr(TrainerState, "save_to_json", look_first)
    with pytest.raises(KeyboardInterrupt):
        train("run", **settings)
    assert found == ["no trainer_state.json"] * 2, "all else was there"
    monkeypatch.undo()
    checkpoint = last_complete_checkpoint(tmp_path / "run", "ema.pt")
    assert checkpoint == tmp_path / "run" / "checkpoint-1"
    assert train("run", resume=str(checkpoint), **settings).state.global_step == 2
