"""One recipe from a base model to its open-loop report, or the same at a size that shows whether it runs.

usage: python examples/recipes/run.py RECIPE --grounding FOLDER... --output FOLDER [--mixture FILE] [--held-out FILE]
       [--smoke]

RECIPE is simplerenv, libero, interndata_m1 or so101. For many GPUs run the printed commands with `accelerate launch`.
The open-loop reports are on the data of --held-out; without it on frames that were trained on, and named so.
"""

import argparse
import shlex
from pathlib import Path
from typing import Any

import yaml

from training_st4vla.commands.main import main as st4vla
from training_st4vla.data.action_mixture import key_of
from training_st4vla.data.sources import DataSource, read_mixture

HERE = Path(__file__).resolve().parent
RECIPES = ("simplerenv", "libero", "interndata_m1", "so101")
SMOKE_TRAINING = ["--max-steps", 2, "--per-device-train-batch-size", 4, "--gradient-accumulation-steps", 1]
SMOKE_TRAINING += ["--warmup-steps", 1, "--logging-steps", 1, "--dataloader-num-workers", 0, "--bf16", False]
EVALUATION = ["--max-frames", 4000, "--stride", 4]
SMOKE_EVALUATION = ["--max-frames", 8, "--stride", 4, "--shown-episodes", 1, "--band-samples", 2, "--device", "cpu"]
SMOKE_EVALUATION += ["--num-inference-steps", 2]


def run(*words: Any) -> None:
    """One `st4vla` command, printed before it runs."""
    words = tuple(str(word) for word in words)
    print(f"\n$ st4vla {shlex.join(words)}", flush=True)
    if st4vla(list(words)) != 0:
        raise SystemExit(f"st4vla {words[0]} failed")


def init_flags(recipe: Path, smoke: bool) -> list[Any]:
    """The recipe's model, or the tiny preset with the same actions."""
    if not smoke:
        return ["--config", recipe / "init.yaml"]
    sizes = yaml.safe_load((recipe / "init.yaml").read_text())
    kept = {name: sizes[name] for name in ("action_dim", "chunk_size", "state_dim") if name in sizes}
    flags = [word for name, value in kept.items() for word in (f"--{name.replace('_', '-')}", value)]
    return ["--preset", "tiny", "--image-size", 112, *flags]


def data_flags(source: DataSource) -> list[Any]:
    """One dataset of a mixture as flags; what is declared about it went into the model's contract."""
    source = source.completed()
    flags: list[Any] = ["--dataset", source.dataset, "--dataset-key", key_of(source)]
    for name in ("action_keys", "state_keys", "cameras", "episodes"):
        values = getattr(source, name)
        flags += [f"--{name.replace('_', '-')}", *values] if values else []
    return flags


def evaluate(policy: Path, sources: list[DataSource], place: str, sizes: list[Any]) -> None:
    """An open-loop report per dataset, beside trivial baselines."""
    for source in sources:
        name = f"actions_{place}_{Path(source.dataset).name}"
        if not (policy / f"{name}.html").is_file():
            kept = ["--json", policy / f"{name}.json", "--report", policy / f"{name}.html"]
            run("evaluate-actions", "--model", policy, *data_flags(source), *sizes, *kept)


def main() -> None:
    """The steps, each left out when its folder is there already."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", choices=RECIPES)
    parser.add_argument("--grounding", nargs="+", required=True, help="grounding datasets of both stages")
    parser.add_argument("--output", type=Path, required=True, help="folder of everything that is made")
    parser.add_argument("--mixture", type=Path, help="where your copies of the action data lie; the recipe's without")
    parser.add_argument("--held-out", type=Path, help="episodes for the reports, as a file like --mixture")
    parser.add_argument("--smoke", action="store_true", help="a tiny model and two steps of each stage")
    args = parser.parse_args()
    recipe, small = HERE / args.recipe, SMOKE_TRAINING if args.smoke else []
    mixture = args.mixture or recipe / "mixture.yaml"
    new, grounded, policy = (args.output / name for name in ("new", "grounded", "policy"))

    if not new.is_dir():
        run("init", *init_flags(recipe, args.smoke), "--output", new)
    if not (grounded / "config.json").is_file():
        stage_1 = ["--config", HERE / "train_grounding.yaml", "--model", new, "--dataset", *args.grounding]
        run("train-grounding", *stage_1, "--output-dir", grounded, *small)
    if not (policy / "config.json").is_file():
        stage_2 = ["--config", recipe / "train_actions.yaml", "--model", grounded, "--mixture", mixture]
        stage_2 += ["--grounding-dataset", *args.grounding]
        run("train-actions", *stage_2, "--output-dir", policy, *small)
    place = "held_out" if args.held_out else "trained_on"
    evaluate(policy, read_mixture(args.held_out or mixture), place, SMOKE_EVALUATION if args.smoke else EVALUATION)


if __name__ == "__main__":
    main()
