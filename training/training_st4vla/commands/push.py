"""`st4vla push`: a model, dataset or Space to the Hugging Face Hub, after a look at everything."""

from dataclasses import dataclass
from pathlib import Path

from training_st4vla.commands.arguments import exit_with, flag, positional
from training_st4vla.commands.console import emit, say
from training_st4vla.commands.main import Command
from training_st4vla.errors import UserError


@dataclass
class PushArguments:
    """Flags of `st4vla push`."""

    folder: str = positional("folder of a model, a LeRobot dataset or a Gradio Space")
    repo_id: str = flag("where to: owner/name")
    type: str = flag("auto, model, dataset or space", "auto")
    private: bool = flag("make a new repository private", False)
    create_pr: bool = flag("open a pull request instead of committing", False)
    dry_run: bool = flag("check and list everything, upload nothing", False)


def run(args: PushArguments) -> int:
    """Checks, lists, uploads; prints the address."""
    from training_st4vla.publishing.checks import check_contents
    from training_st4vla.publishing.contents import detect_kind, list_contents, named_kind

    owner = _owner(args.repo_id)
    folder = Path(args.folder)
    if not folder.is_dir():
        raise UserError(f"expected a folder to publish, found nothing at {folder}.")
    kind = detect_kind(folder) if args.type == "auto" else named_kind(args.type)
    contents = list_contents(folder, kind)
    for line in describe(contents.files, contents.left_out):
        say(line)
    say(f"{kind} {args.repo_id}: {len(contents.files)} files, {readable(contents.size)}; checking ...")
    findings = check_contents(contents, owner)
    for one in findings.found:
        if one.level != "error":
            say(f"  {one.name}: {one.text}")
    problems = [f"{one.name}: {one.text}" for one in findings.found if one.level == "error"]
    if problems:
        listed = "\n- ".join(problems)
        raise UserError(f"{folder} is not ready to be published as a {kind}; nothing was uploaded.\n- {listed}")
    if args.dry_run:
        say("checked; nothing was uploaded (--dry-run).")
        return 0
    from training_st4vla.publishing.upload import upload

    emit(upload(contents, args.repo_id, private=args.private, create_pr=args.create_pr))
    return 0


def describe(files: dict[str, int], left_out: dict[str, int], most: int = 40) -> list[str]:
    """Lines for the terminal: every file with its size (the largest `most`), and what stays here by its first part."""
    width = max(map(len, files), default=0)
    shown = sorted(files, key=lambda name: -files[name])[:most]
    lines = [f"  {name:<{width}}  {readable(files[name]):>9}" for name in sorted(shown)]
    if len(files) > most:
        rest = sum(files.values()) - sum(files[name] for name in shown)
        lines.append(f"  and {len(files) - most} smaller files, {readable(rest)} together")
    tops: dict[str, int] = {}
    for name, size in left_out.items():
        top = name.split("/")[0] + ("/" if "/" in name else "")
        tops[top] = tops.get(top, 0) + size
    return [*lines, *(f"  left out: {top} ({readable(size)})" for top, size in tops.items())]


def readable(size: int) -> str:
    """A number of bytes for people, in powers of 1000 as on the Hub."""
    number = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"


def _owner(repo_id: str) -> str:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UserError(f"--repo-id: {error}") from error
    if repo_id.count("/") != 1:
        raise UserError(f"--repo-id: expected OWNER/NAME, found {repo_id!r}.")
    return repo_id.split("/")[0]


COMMAND = Command(
    name="push",
    arguments=lambda: (PushArguments,),
    run=run,
    description="Uploads a model, dataset or Space to the Hub, after checking its card, its files and that it works.",
)

if __name__ == "__main__":
    exit_with(COMMAND)
