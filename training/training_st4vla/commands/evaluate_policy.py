"""`st4vla evaluate-policy`: closed loop in a LeRobot environment."""

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training_st4vla.commands.arguments import device_flag, dtype_flag, exit_with, flag
from training_st4vla.commands.console import emit, say, write_json
from training_st4vla.commands.main import Command
from training_st4vla.errors import UserError, require_extra

ST4VLA_FLAGS = (
    "ensemble",
    "ensemble_horizon",
    "gripper_hold",
    "dataset_key",
    "num_inference_steps",
    "guidance_scale",
    "dtype",
)
"""What a LeRobot policy cannot be asked for: it executes, samples and rounds as its own config says."""


@dataclass
class EvaluatePolicyArguments:
    """Flags of `st4vla evaluate-policy`."""

    model: str = flag("ST4VLA model or LeRobot policy: folder or Hub id")
    env: str = flag("LeRobot environment type: tabletop, pusht, libero, ...", "tabletop")
    tasks: list[str] | None = flag(
        "tasks of the environment; without it its default: on the tabletop the split's", None
    )
    split: list[str] | None = flag("what varies, one or more, in environments that have splits (tabletop)", None)
    env_options: list[str] | None = flag("further fields of the environment's config, as NAME=VALUE", None)
    episodes: int = flag("episodes per task", 40)
    seed: int = flag("seed of the first episode; the others follow one by one", 1000)
    batch_size: int = flag("environments that run at once", 8)
    n_action_steps: int | None = flag(
        "actions executed of each predicted chunk; half of it, or a LeRobot policy's own, without it", None
    )
    ensemble: str | None = flag("adaptive: predict at every step and average the overlapping chunks (ST4VLA)", None)
    ensemble_horizon: int = flag("chunks that the ensemble averages (ST4VLA)", 7)
    gripper_hold: int = flag("control steps that a new gripper command is kept for at least (ST4VLA)", 0)
    dataset_key: str | None = flag("whose action contract; the only one without it (ST4VLA)", None)
    num_inference_steps: int | None = flag("denoising steps; the model's own without it", None)
    guidance_scale: float | None = flag("classifier-free guidance, 1 = off; the model's own without it", None)
    failure_films: int = flag("keep the films of at most so many failures, spread over the tasks", 12)
    success_films: int = flag("keep the films of at most so many successes, spread over the tasks", 4)
    ground_every: int = flag("control steps between two groundings drawn into a film; 0 draws none", 20)
    films_dir: str | None = flag("write the films to this folder as MP4; the report holds them in any case", None)
    compare: str | None = flag("a --json file of another policy on the same episodes", None)
    dtype: str = dtype_flag()
    device: str = device_flag()
    json: str | None = flag("write results per episode to this file", None)
    report: str | None = flag("write an HTML report with the films to this new file", None)


def arguments() -> tuple[type, ...]:
    """Flags of this command."""
    require_extra("lerobot", "train")
    return (EvaluatePolicyArguments,)


def run(args: EvaluatePolicyArguments) -> int:
    """Evaluates, prints tables, writes JSON, films and the report."""
    evaluate_policy(args)
    return 0


def evaluate_policy(args: EvaluatePolicyArguments, policy: Any = None) -> list[Any]:
    """
    The command as a function.

    Args:
        policy ([`~training_st4vla.evaluation.policies.Policy`], *optional*): runs instead of `args.model`.

    Returns:
        `list[EpisodeResult]`.
    """
    from training_st4vla.evaluation.film_shelf import FilmShelf
    from training_st4vla.evaluation.policy_scores import (
        compare_results,
        comparison_table,
        results_from_json,
        results_to_json,
        success_table,
        write_policy_report,
    )
    from training_st4vla.evaluation.report import RunInfo

    _check(args)
    other = json.loads(Path(args.compare).read_text()) if args.compare else None
    configs = environment_configs(args)
    policy = policy or load_policy(args, configs[0])
    shelf = FilmShelf(args.failure_films, args.success_films) if args.report or args.films_dir else None
    results = roll_out(args, configs, policy, shelf)
    emit(success_table(results).to_text())
    comparison = None
    if other is not None:
        compared = compare_results(results_from_json(other), results)
        comparison = comparison_table((other["policy"], policy.name), compared)
        emit(comparison.to_text())
    info = RunInfo.collect(dtype=args.dtype, extra={"Seeds": f"{args.seed} to {args.seed + args.episodes - 1}"})
    if args.json:
        run = {"model": args.model, "flags": dataclasses.asdict(args), "run": dataclasses.asdict(info)}
        write_json(Path(args.json), results_to_json(policy.name, results, **run))
    if shelf is not None:
        shelf.ask(policy.ground)
    if shelf is not None and args.films_dir:
        shelf.save(Path(args.films_dir))
    if args.report:
        place = ", ".join([args.env, *(args.split or [])])
        filmed = shelf.rollouts if shelf is not None else ()
        write_policy_report(
            Path(args.report), policy.name, place, results, filmed=filmed, comparison=comparison, info=info
        )
        say(f"{args.report}: written.")
    return results


def _check(args: EvaluatePolicyArguments) -> None:
    if args.episodes < 1 or args.batch_size < 1:
        raise UserError(f"--episodes, --batch-size: expected at least 1, found {args.episodes}, {args.batch_size}.")
    for name in ("failure_films", "success_films", "ground_every"):
        if getattr(args, name) < 0:
            raise UserError(f"--{name.replace('_', '-')}: expected 0 or more, found {getattr(args, name)}.")
    if args.ensemble is None and args.ensemble_horizon != EvaluatePolicyArguments.ensemble_horizon:
        raise UserError("--ensemble-horizon: means nothing without --ensemble adaptive.")
    if args.ensemble not in (None, "adaptive"):
        raise UserError(f"--ensemble: expected adaptive, found {args.ensemble!r}.")
    if args.report and Path(args.report).exists():
        raise UserError(f"--report: {args.report} exists already; choose another name.")


def environment_configs(args: EvaluatePolicyArguments) -> list[Any]:
    """
    LeRobot's configs of `--env`, one per split, from LeRobot itself or an installed `lerobot_env_*` distribution.

    Raises:
        UserError: for an environment, a field, a split or a task that does not exist.
    """
    os.environ.setdefault("MUJOCO_GL", "egl")
    from lerobot.envs.configs import EnvConfig
    from lerobot.utils.import_utils import register_third_party_plugins

    register_third_party_plugins()
    known = EnvConfig.get_known_choices()
    if args.env not in known:
        hint = " Install it with: pip install 'st4vla[sim]'." if args.env == "tabletop" else ""
        raise UserError(f"--env: expected one of {sorted(known)}, found {args.env!r}.{hint}")
    cls = EnvConfig.get_choice_class(args.env)
    options: dict[str, str] = {}
    for option in args.env_options or []:
        name, _, value = option.partition("=")
        options[name] = value
    if args.tasks:
        options["task"] = ",".join(args.tasks)
    splits = list(dict.fromkeys(args.split or []))
    fields = {field.name: field for field in dataclasses.fields(cls)}
    unknown = sorted({*options, *(["split"] if splits else [])} - set(fields))
    if unknown:
        raise UserError(f"--env {args.env}: has no {', '.join(unknown)}; it has {', '.join(sorted(fields))}.")
    values = {name: _converted(value, fields[name]) for name, value in options.items()}
    try:
        return [cls(**values, split=split) for split in splits] if splits else [cls(**values)]
    except ValueError as error:
        raise UserError(f"--env {args.env}: {error}") from error


def load_policy(args: EvaluatePolicyArguments, config: Any) -> Any:
    """
    The policy in `--model`: ours, or LeRobot's.

    Raises:
        UserError: for flags that this policy does not have.
    """
    from training_st4vla.evaluation.policies import LeRobotPolicy, ModelPolicy, is_lerobot_checkpoint
    from training_st4vla.loading import load_model, pick_device

    if is_lerobot_checkpoint(args.model):
        given = [name for name in ST4VLA_FLAGS if getattr(args, name) != getattr(EvaluatePolicyArguments, name)]
        if given:
            names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise UserError(
                f"{names}: {args.model} is a LeRobot policy, which acts as its own config says. Leave {names} out; of "
                "these flags it takes --n-action-steps alone."
            )
        device = str(pick_device(args.device))
        return LeRobotPolicy(args.model, config, n_action_steps=args.n_action_steps, device=device)
    model, processor = load_model(args.model, args.dtype, args.device)
    return ModelPolicy(
        model,
        processor,
        dataset_key=args.dataset_key,
        n_action_steps=args.n_action_steps,
        ensemble=args.ensemble_horizon if args.ensemble else None,
        gripper_hold=args.gripper_hold,
        seed=0,
        num_inference_steps=args.num_inference_steps,
        guidance_scale=args.guidance_scale,
        name=Path(args.model.rstrip("/")).name,
    )


def roll_out(args: EvaluatePolicyArguments, configs: list[Any], policy: Any, shelf: Any = None) -> list[Any]:
    """All episodes of all tasks of all splits, with a progress bar over episodes; films go to the shelf."""
    from lerobot.envs.factory import make_env
    from tqdm.auto import tqdm

    from training_st4vla.evaluation.closed_loop import run_episodes

    seeds = range(args.seed, args.seed + args.episodes)
    results: list[Any] = []
    with tqdm(total=0, desc="episodes", unit="episode") as bar:
        for config in configs:
            suites = make_env(config, n_envs=min(args.batch_size, args.episodes), use_async_envs=False)
            names = config.tasks() if hasattr(config, "tasks") else None
            bar.total += sum(len(tasks) for tasks in suites.values()) * args.episodes
            for suite, number, envs in [(suite, *task) for suite, tasks in suites.items() for task in tasks.items()]:
                task = names[number] if names and len(suites[suite]) == len(names) else str(number)
                where = {"suite": suite, "task": task, "film": shelf is not None, "ground_every": args.ground_every}
                try:
                    for rollout in run_episodes(policy, envs, seeds, **where):
                        results.append(rollout.result)
                        if shelf is not None:
                            shelf.add(rollout)
                        bar.update()
                finally:
                    envs.close()
                bar.set_postfix_str(f"success {sum(result.success for result in results)}/{len(results)}")
    return results


def _converted(value: Any, field: Any) -> Any:
    """Text from the command line as the type of the field's default."""
    default = field.default
    if not isinstance(value, str) or isinstance(default, str):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value


COMMAND = Command(
    name="evaluate-policy",
    arguments=arguments,
    run=run,
    description="Closed-loop success in a LeRobot environment, with intervals, films and a report.",
)

if __name__ == "__main__":
    exit_with(COMMAND)
