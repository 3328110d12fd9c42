"""Does grounding survive action training? One annotated episode, one planner that knows it, three ways to go on.

usage: python examples/guided_against_vanilla/run.py --dataset FOLDER --output FOLDER [--smoke]

FOLDER is an InternData-M1 episode in LeRobot format with its `annotation.*` columns. A rerun resumes.
"""

import argparse
import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from report import write_report

from training_st4vla.commands.main import main as st4vla
from training_st4vla.precision import multiplies_bfloat16

ACTION_KEYS = ["action.delta_eef_position", "action.delta_eef_rotation", "action.gripper_close"]
CONTRACT = {
    "action_units": ["m", "m", "m", "rad", "rad", "rad", "1"],
    "frame": "base",
    "rotation": "euler_xyz",
    "gripper_polarity": "high_is_closed",
}
CAMERA = "base_view"
# The paper's three kinds of training are settings of one trainer.
RUNS = {"vanilla": ("none", False), "co-training": ("none", True), "guided": ("unified", True)}


@dataclass(frozen=True)
class Sizes:
    """
    Every so many-th frame is asked about; optimiser steps and samples per batch of both stages.

    Stage 1 stops while its loss still falls: whether grounding stays would not show in a text loss at its floor.
    """

    stride: int = 12
    grounding_steps: int = 180
    action_steps: int = 240
    batch: int = 8
    questions: int = 32


SMOKE = Sizes(stride=60, grounding_steps=2, action_steps=2, batch=2, questions=4)


def run(*words: Any) -> None:
    """One `st4vla` command, printed before it runs."""
    words = tuple(str(word) for word in words)
    print(f"\n$ st4vla {shlex.join(words)}", flush=True)
    if st4vla(list(words)) != 0:
        raise SystemExit(f"st4vla {words[0]} failed")


def write_questions(dataset: Path, folder: Path, stride: int) -> Path:
    """The episode's own boxes and gripper paths as grounding data, with pictures beside them."""
    from PIL import Image

    from training_st4vla.data.grounding.demonstrations import GroundingRowOptions, grounding_rows
    from training_st4vla.data.grounding.images import LeRobotFrames

    file = folder / "train.jsonl"
    if file.is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    frames, lines = LeRobotFrames(dataset, [CAMERA]), []
    for row in grounding_rows(dataset, CAMERA, options=GroundingRowOptions(stride=stride)):
        if row["role"] == "task":
            continue
        picture = folder / f"{row['frame_index']:06d}.jpg"
        if not picture.is_file():
            pixels = frames.frame(frames.camera(CAMERA), row["episode_index"], row["frame_index"])
            Image.fromarray(pixels).save(picture, quality=95)
        kept = {name: row[name] for name in row if name not in ("dataset", "camera", "index")}
        lines.append(json.dumps({**kept, "image": picture.name}))
    file.write_text("\n".join(lines) + "\n")
    return folder


def shared_flags(sizes: Sizes, steps: int) -> list[Any]:
    """What both stages say alike."""
    flags: list[Any] = ["--max-steps", steps, "--per-device-train-batch-size", sizes.batch]
    flags += ["--bf16", multiplies_bfloat16("cpu")]
    flags += ["--warmup-steps", max(1, steps // 15), "--logging-steps", max(1, steps // 30), "--save-steps", steps]
    flags += ["--eval-strategy", "steps", "--eval-steps", max(1, steps // 4), "--eval-questions", sizes.questions]
    flags += ["--per-device-eval-batch-size", 24, "--eval-max-new-tokens", 80, "--eval-pictures", 6]
    return [*flags, "--seed", 0, "--use-cpu", True, "--disable-tqdm", True]


def ground(model: Path, questions: Path, output: Path, sizes: Sizes) -> None:
    """Stage 1: the planner learns the episode's frames."""
    if (output / "config.json").is_file():
        return
    flags: list[Any] = ["--model", model, "--dataset", questions, "--eval-dataset", questions, "--output-dir", output]
    run("train-grounding", *flags, "--learning-rate", 1e-3, *shared_flags(sizes, sizes.grounding_steps))


def act(name: str, model: Path, dataset: Path, questions: Path, folder: Path, sizes: Sizes) -> None:
    """Stage 2 in one of its three settings; everything else is the same."""
    prompt, with_grounding = RUNS[name]
    if (folder / name / "config.json").is_file():
        return
    flags: list[Any] = ["--model", model, "--dataset", dataset, "--eval-dataset", dataset]
    flags += ["--action-keys", *ACTION_KEYS, "--cameras", CAMERA, "--contract", folder / "contract.json"]
    flags += ["--grounding-eval-dataset", questions, "--spatial-prompt", prompt, "--output-dir", folder / name]
    flags += ["--grounding-dataset", questions, "--grounding-ratio", 0.5] if with_grounding else []
    flags += ["--learning-rate", 1e-3, "--vlm-learning-rate", 3e-4, "--action-expert-learning-rate", 1e-3]
    flags += ["--eval-loss-frames", 32, "--eval-frames", 8, "--eval-on-start", True, "--similarity-samples", 8]
    flags += ["--similarity-steps", max(1, sizes.action_steps // 4)]
    run("train-actions", *flags, *shared_flags(sizes, sizes.action_steps))


def main() -> None:
    """The whole comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", type=Path, required=True, help="InternData-M1 episode, LeRobot v2.1 or v3.0")
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs and of report.html")
    parser.add_argument("--smoke", action="store_true", help="two steps of everything: does it run?")
    args = parser.parse_args()
    sizes = SMOKE if args.smoke else Sizes()
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "contract.json").write_text(json.dumps(CONTRACT, indent=2))
    new, grounded = args.output / "new", args.output / "grounded"
    if not new.is_dir():
        init: list[Any] = ["--preset", "tiny", "--action-dim", 7, "--chunk-size", 8, "--image-size", 112]
        run("init", *init, "--dtype", "float32", "--seed", 0, "--output", new)
    questions = write_questions(args.dataset, args.output / "questions", sizes.stride)
    ground(new, questions, grounded, sizes)
    for name in RUNS:
        act(name, grounded, args.dataset, questions, args.output, sizes)
    write_report(args.output, list(RUNS))
    print(f"\n{args.output / 'report.html'}")


if __name__ == "__main__":
    main()
