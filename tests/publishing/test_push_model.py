"""`st4vla push` of models: what goes up, what stays here, what is refused."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hub import Hub
from safetensors.torch import load_file, save_file


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_model_arrives_whole_and_without_the_run_beside_it(hub: Hub, push: Callable, robot: Path) -> None:
    for name in ("checkpoint-3/optimizer.pt", "run.json", "trainer_state.json", "training.html", "adapter/a.bin"):
        (robot / name).parent.mkdir(exist_ok=True)
        (robot / name).write_text("left by training")
    (robot / "pytorch_model.bin").write_bytes(b"pickle")
    code, out, err = push(robot, "--repo-id", "me/robot")
    assert code == 0, err
    assert out == f"{hub.endpoint}/me/robot\n"
    files = hub.files("model", "me/robot")
    assert {"config.json", "model.safetensors", "processor_config.json", "tokenizer.json"} <= set(files)
    assert {"modeling_st4vla.py", "processing_st4vla.py", "selftest/golden.json", "selftest/example.png"} <= set(files)
    assert not [name for name in files if name.startswith(("checkpoint", "adapter", "run", "train", "pytorch"))]
    for name, content in files.items():
        if name != "README.md":
            assert content == (robot / name).read_bytes(), name
    card = files["README.md"].decode()
    assert 'AutoModel.from_pretrained("me/robot", trust_remote_code=True)' in card  # here it is called by its folder
    assert 'from_pretrained("robot"' in (robot / "README.md").read_text()
    assert "model me/robot: " in err
    assert re.search(r"model\.safetensors +[\d.]+ [kM]B", err)
    assert "left out: checkpoint-3/ (16 B)" in err
    assert "PUT" in {request.split()[0] for request in hub.requests}  # the weights took the large-file path


def test_the_card_tells_everything(robot: Path) -> None:
    card = (robot / "README.md").read_text()
    for part in ("library_name: transformers", "pipeline_tag: robotics", "license: apache-2.0"):
        assert part in card.split("---")[1]
    assert "![" in card
    assert "(selftest/example.png)" in card
    assert re.search(r"### Step 1\n\nA toy\.\n\n```bash\n\S", card)
    assert "transformers 5." in card
    assert "## Intended use and limits" in card


def test_a_dry_run_uploads_nothing(hub: Hub, push: Callable, robot: Path) -> None:
    code, out, err = push(robot, "--repo-id", "me/robot", "--dry-run")
    assert (code, out, hub.requests) == (0, "", [])
    assert "checked; nothing was uploaded (--dry-run)." in err
    assert "no figures" in err


def test_pushing_again_leaves_no_stale_weights(hub: Hub, push: Callable, robot: Path) -> None:
    assert push(robot, "--repo-id", "me/robot")[0] == 0
    weights = load_file(robot / "model.safetensors")
    names = sorted(weights)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, keys in parts.items():
        save_file({key: weights[key] for key in keys}, robot / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {key: file for file, keys in parts.items() for key in keys}}
    (robot / "model.safetensors.index.json").write_text(json.dumps(index))
    (robot / "model.safetensors").unlink()
    code, _, err = push(robot, "--repo-id", "me/robot")
    assert code == 0, err
    found = {name for name in hub.files("model", "me/robot") if name.startswith(("model.", "model-"))}
    assert found == {*parts, "model.safetensors.index.json"}
    repository = hub.repositories["model", "me/robot"]
    assert any("model.safetensors" in tree for tree in repository.commits.values())  # it stays in the history


def test_private_repositories_and_pull_requests(hub: Hub, push: Callable, robot: Path) -> None:
    code, out, err = push(robot, "--repo-id", "me/robot", "--private", "--create-pr")
    assert code == 0, err
    assert out == f"{hub.endpoint}/me/robot/discussions/1\n"
    assert hub.repositories["model", "me/robot"].private
    assert hub.files("model", "me/robot") == {}
    assert "config.json" in hub.files("model", "me/robot", "refs/pr/1")


def no_licence(folder: Path) -> None:
    edit(folder / "README.md", "license: apache-2.0\n", "")


def no_pipeline(folder: Path) -> None:
    edit(folder / "README.md", "pipeline_tag: robotics", "pipeline_tag: image-text-to-text")


def no_card(folder: Path) -> None:
    (folder / "README.md").unlink()


def no_picture(folder: Path) -> None:
    (folder / "selftest" / "example.png").unlink()


def no_command(folder: Path) -> None:
    edit(folder / "README.md", "```bash", "```")


def data_without_licence(folder: Path) -> None:
    edit(folder / "README.md", "Data: none.", "| data | licence |\n| --- | --- |\n| mine | not stated |")


def figures_without_intervals(folder: Path) -> None:
    result = "{task: {type: grounding}, dataset: {name: a, type: a}, metrics: [{type: iou, value: 0.5}]}"
    edit(
        folder / "README.md",
        "license: apache-2.0",
        f"license: apache-2.0\nmodel-index: [{{name: r, results: [{result}]}}]",
    )


def local_path(folder: Path) -> None:
    edit(folder / "README.md", "A toy.", "From /home/alice/run.")


def path_in_a_config(folder: Path) -> None:
    edit(folder / "generation_config.json", "{", '{"_from": "/mnt/disk/model",')


def token(folder: Path) -> None:
    (folder / "spatial.py").write_text("TOKEN = 'hf_" + "a" * 34 + "'\n")


def no_code(folder: Path) -> None:
    (folder / "query_transformer_st4vla.py").unlink()
    (folder / "modeling_st4vla.py").unlink()


def no_auto_map(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    del config["auto_map"]
    (folder / "config.json").write_text(json.dumps(config))


def cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def changed_weights(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    key = next(key for key in weights if key.endswith("fc1.bias"))
    weights[key] = weights[key] + 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (no_licence, "`license` is missing at the top of README.md"),
        (no_pipeline, "`pipeline_tag` at the top of README.md: expected robotics, found image-text-to-text"),
        (no_card, "no README.md"),
        (no_picture, "the example picture selftest/example.png is not there"),
        (no_command, "README.md holds no command"),
        (data_without_licence, "the licence of mine is 'not stated'"),
        (figures_without_intervals, "without their 95 % intervals"),
        (local_path, "README.md holds the local path /home/alice"),
        (path_in_a_config, "generation_config.json holds the local path /mnt/disk"),
        (token, "spatial.py holds an access token"),
        (no_code, "config.json names ['modeling_st4vla.py'], not there"),
        (no_auto_map, "config.json names no source files (`auto_map`)"),
        (cut_weights, "a weights file is damaged or truncated"),
        (changed_weights, "this copy computes something else than when it was saved"),
    ],
)
def test_refusals(hub: Hub, push: Callable, robot: Path, spoil: Callable, message: str) -> None:
    spoil(robot)
    code, out, err = push(robot, "--repo-id", "me/robot")
    assert (code, out, hub.requests) == (1, "", [])
    assert f"{robot} is not ready to be published as a model; nothing was uploaded." in err
    assert message in err


def test_refusals_of_the_command_line(hub: Hub, push: Callable, robot: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for words, message in (
        ((tmp_path / "none", "--repo-id", "me/robot"), "expected a folder to publish, found nothing at"),
        ((tmp_path / "empty", "--repo-id", "me/robot"), "expected exactly one of a model"),
        ((robot, "--repo-id", "robot"), "--repo-id: expected OWNER/NAME, found 'robot'"),
        ((robot, "--repo-id", "me/robot", "--type", "weights"), "--type: expected auto, model, dataset, space"),
    ):
        code, out, err = push(*words)
        assert (code, out, hub.requests) == (1, "", [])
        assert message in err


def test_what_the_hub_refuses_is_explained(
    hub: Hub, push: Callable, robot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, err = push(robot, "--repo-id", "somebody/robot")
    assert code == 1
    assert "--repo-id somebody/robot: the Hub refused (403: " in err
    assert "Check that your token may write to somebody." in err
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    code, _, err = push(robot, "--repo-id", "me/robot")
    assert code == 1
    assert "the Hub refused (401" in err
    assert "hf auth login" in err


def test_trainers_do_not_push_past_the_checks() -> None:
    from types import SimpleNamespace

    from training_st4vla.commands.runs import start_run
    from training_st4vla.errors import UserError

    args = SimpleNamespace(model="robot", dtype="float32", save_dtype=None)
    with pytest.raises(UserError, match="publish the finished model with `st4vla push"):
        start_run(args, SimpleNamespace(push_to_hub=True))
