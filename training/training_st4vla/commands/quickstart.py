"""`st4vla quickstart`: the main job on the embedded robot, start to finish, as a tutorial that runs."""

import json
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from training_st4vla.commands.arguments import device_flag, exit_with, flag, parse_arguments
from training_st4vla.commands.console import emit, say, write_json
from training_st4vla.commands.main import Command
from training_st4vla.commands.quickstart_plan import (
    ACTIONS,
    BATCH_SIZE,
    CHUNK_SIZE,
    GROUNDING,
    IMAGE_SIZE,
    IMAGES,
    QUESTIONS_PER_IMAGE,
    ROLES,
    Plan,
    make_plan,
    steps_within,
)
from training_st4vla.errors import UserError, require_extra

PLAN_FILE, TIMES_FILE = "plan.json", "times.json"
SPLIT, TRAIN_SPLIT, TASK = "easy", "train_easy", "pick_place"


@dataclass
class QuickstartArguments:
    """Flags of `st4vla quickstart`."""

    output: str = flag("folder of the run; the same command resumes it", "outputs/quickstart")
    minutes: float = flag("how long it may take; more gives a better policy", 10.0)
    device: str = device_flag()
    seed: int = flag("seed of demonstrations, weights and training", 0)


def arguments() -> tuple[type, ...]:
    """Flags of this command."""
    return (QuickstartArguments,)


def run(args: QuickstartArguments) -> int:
    """Runs all steps that are not done yet."""
    quickstart(args)
    return 0


def quickstart(args: QuickstartArguments) -> Path:
    """
    The command as a function.

    Returns:
        The folder with `model/`, `report.html` and everything made on the way.
    """
    if args.minutes <= 0:
        raise UserError(f"--minutes: expected more than 0, found {args.minutes:g}.")
    for module, extra in (("lerobot", "train"), ("trl", "train"), ("lerobot_env_tabletop", "sim")):
        require_extra(module, extra)
    output = Path(args.output)
    steps = Steps(output)
    plan = claim(output, args)
    say(plan.describe(str(output)))
    started = time.monotonic()

    demos, tests = output / "demonstrations", output / "test_demonstrations"
    new, grounder, model = output / "new_model", output / "stage1", output / "model"
    steps.run("record", lambda: record(demos, plan.demonstrations, args.seed), demos / "meta" / "info.json")
    steps.run("record for questions", lambda: record(tests, plan.test_demonstrations, args.seed + 1), tests / "meta")
    steps.run("make a model", lambda: init(new, args.seed), new / "config.json")
    plan = settle_steps(output, plan, new, demos)
    steps.run("stage 1", lambda: stage_1(plan, new, demos, grounder, args.seed), grounder / "config.json")
    steps.run("stage 2", lambda: stage_2(plan, grounder, demos, model, args.seed), model / "config.json")
    steps.run("ask", lambda: ask(plan, model, tests, output), output / "grounding.json")
    steps.run("act", lambda: act(plan, model, output), output / "policy.json")
    steps.run("load again", lambda: load_again(model), None)
    from training_st4vla.commands.quickstart_report import write_quickstart_report

    write_quickstart_report(output, plan, steps.commands, steps.seconds)
    say(f"\ndone in {(time.monotonic() - started) / 60:.1f} minutes. Look at {output / 'report.html'}.")
    say(f"Ask it something:  st4vla ground IMAGE 'the red block' --model {model}")
    return output


class Steps:
    """Runs steps in order, skips those that are done, and remembers how long each took and what a user would type."""

    def __init__(self, output: Path) -> None:
        self._file = output / TIMES_FILE
        known = json.loads(self._file.read_text()) if self._file.is_file() else {}
        self.seconds: dict[str, float] = known.get("seconds", {})
        self.commands: dict[str, str] = known.get("commands", {})

    def run(self, name: str, step: Callable[[], str], result: Path | None) -> None:
        """Runs `step`, which returns the command line that does the same, unless `result` is there already."""
        if result is not None and result.exists() and name in self.seconds:
            say(f"\n== {name}: done before")
            return
        say(f"\n== {name}")
        started = time.monotonic()
        self.commands[name] = step()
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.monotonic() - started, 1)
        write_json(self._file, {"seconds": self.seconds, "commands": self.commands})
        say(f"   took {self.seconds[name]:.0f} s; the same by hand:\n   {self.commands[name]}")


def claim(output: Path, args: QuickstartArguments) -> Plan:
    """
    The plan of a new run, or of the run that is in the folder.

    Raises:
        UserError: when the folder holds something else, or a run of other flags.
    """
    from training_st4vla.loading import pick_device

    file = output / PLAN_FILE
    if file.is_file():
        known = json.loads(file.read_text())
        if (known["plan"]["minutes"], known["seed"]) != (args.minutes, args.seed):
            raise UserError(
                f"--output: {output} holds a run with --minutes {known['plan']['minutes']:g} --seed {known['seed']}. "
                "Give the same flags to resume it, or choose another folder."
            )
        return Plan(**known["plan"])
    if output.exists() and any(output.iterdir()):
        raise UserError(f"--output: expected a new or empty folder, found {output} with content.")
    plan = make_plan(args.minutes, pick_device(args.device))
    write_json(file, {"plan": plan.to_dict(), "seed": args.seed})
    return plan


def settle_steps(output: Path, plan: Plan, model: Path, demos: Path) -> Plan:
    """The plan with numbers of optimiser steps, from a stopwatch on this machine; kept for a resumed run."""
    if plan.grounding_steps is not None:
        return plan
    from training_st4vla.commands.quickstart_speed import measure_speed

    grounding, actions = measure_speed(model, demos, plan.device, BATCH_SIZE)
    seconds = 60 * plan.minutes
    plan = replace(
        plan,
        grounding_steps=steps_within(seconds * GROUNDING, grounding),
        action_steps=steps_within(seconds * ACTIONS, actions),
    )
    known = json.loads((output / PLAN_FILE).read_text())
    write_json(output / PLAN_FILE, {**known, "plan": plan.to_dict()})
    say(
        f"\nthis machine: {grounding:.2f} s per step of stage 1, {actions:.2f} s of stage 2; that gives "
        f"{plan.grounding_steps} and {plan.action_steps} steps."
    )
    return plan


def record(folder: Path, episodes: int, seed: int) -> str:
    """Demonstrations of the scripted expert, with ground truth for every frame."""
    from lerobot_env_tabletop.record import record as record_demonstrations

    record_demonstrations(folder, episodes, split=TRAIN_SPLIT, seed=seed, image_size=2 * IMAGE_SIZE)
    flags = ["--episodes", episodes, "--split", TRAIN_SPLIT, "--seed", seed, "--output", folder]
    return shell("python -m lerobot_env_tabletop.record", flags)


def init(folder: Path, seed: int) -> str:
    """A new model for this arm: 7 numbers per action, 8 of state."""
    flags: list[Any] = ["--preset", "tiny", "--action-dim", 7, "--state-dim", 8, "--chunk-size", CHUNK_SIZE]
    flags += ["--image-size", IMAGE_SIZE, "--dtype", "float32", "--seed", seed, "--output", folder]
    return do("init", flags)


def stage_1(plan: Plan, model: Path, demos: Path, output: Path, seed: int) -> str:
    """Points and boxes of single things, in single frames; the rest is learnt beside the actions."""
    flags: list[Any] = ["--model", model, "--dataset", demos, "--kinds", "point", "box", "--roles", *ROLES]
    flags += ["--questions-per-image", QUESTIONS_PER_IMAGE, "--output-dir", output, "--learning-rate", 1e-3]
    flags += ["--muon", True, "--max-steps", plan.grounding_steps]
    return do("train-grounding", [*flags, *training_flags(plan, plan.grounding_steps, seed, IMAGES)])


def stage_2(plan: Plan, model: Path, demos: Path, output: Path, seed: int) -> str:
    """Actions, with grounding beside them."""
    flags: list[Any] = ["--model", model, "--dataset", demos, "--state-keys", "observation.state"]
    flags += ["--grounding-dataset", demos, "--output-dir", output, "--max-steps", plan.action_steps]
    flags += ["--learning-rate", 1e-3, "--vlm-learning-rate", 3e-4, "--action-expert-learning-rate", 1e-3]
    return do("train-actions", [*flags, *training_flags(plan, plan.action_steps, seed)])


def training_flags(plan: Plan, steps: int | None, seed: int, batch_size: int = BATCH_SIZE) -> list[Any]:
    """Flags that both stages share."""
    from training_st4vla.precision import multiplies_bfloat16

    steps = steps or 1
    flags: list[Any] = ["--per-device-train-batch-size", batch_size, "--warmup-steps", max(1, min(50, steps // 10))]
    flags += ["--logging-steps", max(1, steps // 40), "--save-steps", max(20, steps // 4)]
    flags += ["--bf16", multiplies_bfloat16(plan.device)]
    return [*flags, "--seed", seed, "--use-cpu", plan.device == "cpu"]


def ask(plan: Plan, model: Path, tests: Path, output: Path) -> str:
    """Grounding on scenes that were not trained on."""
    flags: list[Any] = ["--model", model, "--benchmark", tests, "--roles", *ROLES, "--max-samples", plan.questions]
    flags += ["--shuffle-instructions", True, "--device", plan.device, "--json", output / "grounding.json"]
    return do("evaluate-grounding", [*flags, "--report", fresh(output / "grounding.html")])


def act(plan: Plan, model: Path, output: Path) -> str:
    """Closed loop in new scenes."""
    flags: list[Any] = ["--model", model, "--env", "tabletop", "--split", SPLIT, "--tasks", TASK]
    flags += ["--env-options", f"image_size={2 * IMAGE_SIZE}", "--episodes", plan.episodes, "--device", plan.device]
    flags += ["--failure-films", 4, "--films-dir", output / "films", "--json", output / "policy.json"]
    return do("evaluate-policy", [*flags, "--report", fresh(output / "policy.html")])


def load_again(model: Path) -> str:
    """What a user of the model writes."""
    import torch
    from transformers import AutoModel, AutoProcessor

    import modeling_st4vla
    import processing_st4vla  # noqa: F401  # both register the Auto classes

    loaded = AutoModel.from_pretrained(model)
    processor = AutoProcessor.from_pretrained(model)
    views = [[torch.zeros(IMAGE_SIZE, IMAGE_SIZE, 3, dtype=torch.uint8).numpy()] * 2]
    inputs = processor(images=views, text=["pick up the red block"], state=[[0.0] * 8])
    actions = processor.post_process_actions(loaded.sample_actions(**inputs))
    emit(f"AutoModel.from_pretrained({str(model)!r}) -> actions of shape {tuple(actions.shape)}")
    assert isinstance(loaded, modeling_st4vla.ST4VLAForActionPrediction)
    code = f"import modeling_st4vla; from transformers import AutoModel; AutoModel.from_pretrained({str(model)!r})"
    return shlex.join(["python", "-c", code])


def do(name: str, flags: Sequence[Any]) -> str:
    """Runs a command's own function in this process; returns the line that a user would type."""
    import importlib

    from training_st4vla.commands.main import COMMANDS

    command = importlib.import_module(f"training_st4vla.commands.{COMMANDS[name][0]}").COMMAND
    command.run(*parse_arguments(command, [str(word) for word in flags]))
    return shell(f"st4vla {name}", flags)


def shell(program: str, flags: Sequence[Any]) -> str:
    """A command line to copy."""
    return f"{program} {shlex.join(str(word) for word in flags)}"


def fresh(report: Path) -> Path:
    """The path, free: an interrupted step may have left its report."""
    report.unlink(missing_ok=True)
    return report


COMMAND = Command(
    name="quickstart",
    arguments=arguments,
    run=run,
    description="Demonstrations, stage 1, stage 2, closed-loop evaluation and a report, on a simulated robot.",
)

if __name__ == "__main__":
    exit_with(COMMAND)
