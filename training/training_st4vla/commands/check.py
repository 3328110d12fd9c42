"""`st4vla check`: is this data healthy, and does it fit this model?"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training_st4vla.commands.arguments import exit_with, flag, positional
from training_st4vla.commands.console import emit, say, write_json
from training_st4vla.commands.main import Command
from training_st4vla.errors import UserError, require_extra

_MARKS = {"error": "ERROR  ", "warning": "warning", "info": "       "}


@dataclass
class CheckArguments:
    """Flags of `st4vla check`."""

    dataset: str = positional("LeRobot dataset or grounding dataset: file, folder or Hub id")
    model: str | None = flag("model folder or Hub id that the data should fit", None)
    action_keys: list[str] | None = flag("action columns of a LeRobot dataset, in order", None)
    state_keys: list[str] | None = flag("state columns, in order; no state without them", None)
    cameras: list[str] | None = flag("cameras in slot order; all of them without it", None)
    dataset_key: str | None = flag("name of the action contract; the dataset's name without it", None)
    episodes: list[int] | None = flag("episode numbers; all without it", None)
    layout: str | None = flag("layout of a grounding dataset; detected without it", None)
    split: str | None = flag("one split of a grounding dataset; all of them, against each other, without it", None)
    dialect: str | None = flag("how conversations write coordinates, or text", None)
    coordinate_space: str | None = flag(
        "space of coordinates that do not declare theirs: pixel, unit, percent, byte, per_mille", None
    )
    image_root: str | None = flag("folder of the image files", None)
    frames_root: str | None = flag("LeRobot dataset of rows that point to video frames", None)
    max_samples: int | None = flag(
        "look closely at so many grounding samples per split at most, drawn evenly by the seed; duplicates are looked "
        "for in all",
        20_000,
    )
    pictures: int = flag("samples or frames per split or camera on the contact sheet", 12)
    seed: int = flag("seed of everything that is drawn", 0)
    json: str | None = flag("write the findings to this file", None)
    report: str | None = flag("write an HTML report with drawn samples to this new file", None)


def arguments() -> tuple[type, ...]:
    """Flags of this command."""
    require_extra("datasets", "train")
    return (CheckArguments,)


def run(args: CheckArguments) -> int:
    """Checks, prints what was found, writes JSON and the report; 0 healthy, 1 warnings, 2 errors."""
    findings = check(args)
    for finding in findings.found:
        number = f" ({finding.count})" if finding.count is not None else ""
        emit(f"{_MARKS[finding.level]}  {finding.name}{number}: {finding.text}")
        for example in finding.examples:
            emit(f"             e.g. {example}")
    errors, warnings = findings.count("error"), findings.count("warning")
    verdict = "not usable as it is" if errors else "usable, with warnings" if warnings else "healthy"
    emit(f"{findings.subject}: {verdict} ({errors} errors, {warnings} warnings).")
    if args.json:
        write_json(Path(args.json), findings.to_dict())
    if args.report:
        _write_report(args, findings)
        say(f"{args.report}: written.")
    return findings.exit_code


def check(args: CheckArguments) -> Any:
    """The command as a function; returns the `Findings`."""
    from training_st4vla.data.findings import Findings
    from training_st4vla.data.lerobot_metadata import INFO_PATH

    if args.report and Path(args.report).exists():
        raise UserError(f"--report: {args.report} exists already; choose another name.")
    findings = Findings(args.dataset)
    model = _open_model(args.model) if args.model else None
    folder = Path(args.dataset).expanduser()
    is_lerobot = (folder / INFO_PATH).is_file() or (not folder.exists() and _is_lerobot_on_hub(args.dataset))
    if is_lerobot and args.layout is None:
        from training_st4vla.data.check_actions import check_actions

        check_actions(
            args.dataset,
            findings,
            action_keys=args.action_keys,
            state_keys=args.state_keys,
            cameras=args.cameras,
            episodes=args.episodes,
            dataset_key=args.dataset_key,
            model=model,
            frames=args.pictures,
            seed=args.seed,
        )
    if not is_lerobot or args.layout is not None or _has_grounding(folder):
        _check_grounding(args, findings, is_lerobot)
    return findings


def _open_model(path: str) -> tuple[Any, Any]:
    """Configuration and processor: the weights are not needed."""
    from modeling_st4vla import ST4VLAConfig
    from processing_st4vla import ST4VLAProcessor

    try:
        return ST4VLAConfig.from_pretrained(path), ST4VLAProcessor.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise UserError(f"--model: {path} could not be opened as an ST4VLA model: {error}") from error


def _is_lerobot_on_hub(name: str) -> bool:
    from training_st4vla.data.errors import DataError
    from training_st4vla.data.lerobot_metadata import open_dataset_info

    try:
        open_dataset_info(name)
    except DataError:
        return False
    return True


def _has_grounding(folder: Path) -> bool:
    from training_st4vla.data.grounding.lerobot import has_events
    from training_st4vla.data.lerobot_metadata import open_dataset_info

    if (folder / "grounding").is_dir():
        return True
    info = open_dataset_info(folder)
    return has_events(info) or any(key.startswith("annotation.") and "bbox2d_tight" in key for key in info.features)


def _check_grounding(args: CheckArguments, findings: Any, is_lerobot: bool) -> None:
    from training_st4vla.data.check_grounding import check_grounding
    from training_st4vla.data.errors import DataError
    from training_st4vla.data.grounding import open_grounding_dataset
    from training_st4vla.data.grounding.episodes import is_episode_folder
    from training_st4vla.data.grounding.rows import find_splits

    splits: dict[str, Any] = {}
    try:
        names: list[str | None] = [args.split]
        whole = is_lerobot or args.layout == "a0" or is_episode_folder(Path(args.dataset).expanduser())
        if args.split is None and not whole:
            names = list(find_splits(args.dataset))
        for name in names:
            splits[name or "all"] = open_grounding_dataset(
                args.dataset,
                layout=args.layout,
                split=name,
                dialect=args.dialect,
                coordinate_space=args.coordinate_space,
                image_root=args.image_root,
                frames_root=args.frames_root,
                cameras=args.cameras if is_lerobot else None,
                check_first=False,
            )
    except DataError as error:
        findings.error("grounding data", str(error))
    if splits:
        check_grounding(splits, findings, max_samples=args.max_samples, pictures=args.pictures, seed=args.seed)


def _write_report(args: CheckArguments, findings: Any) -> None:
    from training_st4vla.evaluation.report import Report, RunInfo

    info = RunInfo.collect(extra={"Seed": str(args.seed)})
    report = Report("Data check", findings.subject, info=info)
    rows = [
        [finding.level, finding.name, finding.count, finding.text, "; ".join(finding.examples)[:600]]
        for finding in sorted(findings.found, key=lambda finding: ("error", "warning", "info").index(finding.level))
    ]
    report.section("Findings").table(headers=("level", "about", "count", "what", "examples"), rows=rows)
    if findings.pictures:
        report.section("Drawn samples").gallery(findings.pictures, max_side=512)
    report.write(args.report or "")


COMMAND = Command(
    name="check",
    arguments=arguments,
    run=run,
    description="Is this data healthy, and does it fit this model? Exit code 0 healthy, 1 warnings, 2 errors.",
)

if __name__ == "__main__":
    exit_with(COMMAND)
