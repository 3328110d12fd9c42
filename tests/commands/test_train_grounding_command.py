"""`st4vla train-grounding` as people run it, at tiny size: mixture files, adapters, conversations, resuming."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from grounding_toy import picture, save, schema_row, write_lines, write_schema_set

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def train(st4vla: Run, tiny: Path, tmp_path: Path) -> Run:
    """Runs two steps on a folder of `tmp_path`."""

    def run(name: str, **flags: Any) -> tuple[int, str, str]:
        options = {"model": tiny, "output_dir": tmp_path / name, "max_steps": 2, "per_device_train_batch_size": 2}
        options |= {"learning_rate": 1e-3, "logging_steps": 1, "save_strategy": "no", "disable_tqdm": True}
        words: list[Any] = ["train-grounding"]
        for flag, value in {**options, "use_cpu": True, **flags}.items():
            words += [f"--{flag.replace('_', '-')}", *(value if isinstance(value, list) else [value])]
        return st4vla(*words)

    return run


def history(folder: Path, name: str = "loss") -> list[float]:
    log = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [entry[name] for entry in log if name in entry]


@pytest.fixture
def conversations(tmp_path: Path) -> Path:
    """Six questions with a point each, as RoboPoint writes them."""
    rows = []
    for number in range(6):
        question = (
            "<image>\nPoint to the square. Your answer should be formatted as a list of tuples, i.e. [(x1, y1)]."
        )
        turns = [{"from": "human", "value": question}, {"from": "gpt", "value": f"[(0.{number + 2}, 0.4)]"}]
        rows.append({"image": save(tmp_path / "talk" / f"{number}.png", picture(number)), "conversations": turns})
    return write_lines(tmp_path / "talk" / "rows.jsonl", rows)


def test_a_mixture_file(train: Run, tmp_path: Path, conversations: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    squares = write_schema_set(tmp_path / "squares", count=4)
    save(tmp_path / "squares" / "place.png", picture())
    held_out = write_lines(tmp_path / "squares" / "test.jsonl", [schema_row("place.png", role="place")] * 3)
    entries = [
        {"dataset": "squares", "split": "train", "weight": 3, "kinds": ["box", "point"], "max_samples": 5},
        {"dataset": f"talk/{conversations.name}", "dialect": "robopoint", "weight": 1},
    ]
    content = {"datasets": entries, "eval_dataset": {"dataset": f"squares/{held_out.name}"}}
    (tmp_path / "mixture.yaml").write_text(yaml.safe_dump(content))
    flags = {"eval_strategy": "steps", "eval_steps": 2, "eval_questions": 2, "eval_max_new_tokens": 4}
    code, _, said = train("run", mixture=tmp_path / "mixture.yaml", **flags)
    assert code == 0, said
    assert "11 questions an epoch" in said
    assert f"{squares.parent}, split train: 72.7%" in said
    assert len(history(tmp_path / "run", "eval_box_parse_rate")) == 1
    card = (tmp_path / "run" / "README.md").read_text()
    assert "squares" in card
    assert conversations.stem in card
    assert "Training time" in (tmp_path / "run" / "training.html").read_text()
    monkeypatch.chdir(tmp_path)
    code = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)[0].replace(
        "max_new_tokens=64", "max_new_tokens=4"
    )
    made: dict[str, Any] = {"image": picture()}
    exec(compile(code, "card", "exec"), made)  # what a reader of the card types
    assert made["answer"].image_size == picture().size


def test_roles_adapters_and_resuming(train: Run, tmp_path: Path) -> None:
    path = write_schema_set(tmp_path / "squares", count=3)
    place = [schema_row(f"{number}.png", role="place", instruction=f"place {number}") for number in range(3)]
    path.write_text(path.read_text() + write_lines(tmp_path / "more.jsonl", place).read_text())
    flags = {"dataset": path, "roles": ["place"], "max_samples": 2, "lora_rank": 2, "save_strategy": "steps"}
    flags |= {"save_steps": 1, "max_steps": 3, "muon": True}
    code, _, said = train("whole", **flags)
    assert code == 0, said
    assert "2 questions an epoch" in said
    (tmp_path / "again").mkdir()
    shutil.copy(tmp_path / "whole" / "run.json", tmp_path / "again")
    shutil.copytree(tmp_path / "whole" / "checkpoint-2", tmp_path / "again" / "checkpoint-2")
    code, _, said = train("again", **{**flags, "max_samples": 3})
    assert (code, "arguments.max_samples" in said) == (1, True)
    code, _, said = train("again", **flags)
    assert (code, "going on from checkpoint-2" in said) == (0, True), said
    assert history(tmp_path / "again") == history(tmp_path / "whole")
    assert (tmp_path / "again" / "adapter" / "adapter_model.safetensors").is_file()
