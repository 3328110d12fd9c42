"""Whether a folder may be published: complete card, nothing private, and it does what it says."""

import json
import re
from pathlib import Path
from typing import Any

from training_st4vla.data.findings import Findings
from training_st4vla.errors import UserError
from training_st4vla.provenance import NOT_STATED, row_licenses
from training_st4vla.publishing.contents import CARD, Contents, front_matter
from training_st4vla.publishing.private_words import private_words
from training_st4vla.selftest import EXAMPLE, FOLDER

_CONFIGS = (".md", ".json", ".jsonl", ".yaml", ".yml", ".toml", ".txt", ".jinja")
_VOCABULARY = ("tokenizer.json", "vocab.json", "merges.txt")
_LARGE = 5_000_000


def check_contents(contents: Contents, owner: str) -> Findings:
    """
    Everything that speaks against publishing, and what is worth knowing.

    Args:
        contents (`Contents`): of the folder. owner (`str`): of the repository, the part before the slash.
    """
    findings = Findings(str(contents.folder))
    _check_private(findings, contents, owner)
    if CARD in contents.files:
        _CARDS[contents.kind](findings, contents)
    else:
        findings.error("card", _NO_CARD[contents.kind])
    if contents.kind == "model":
        _check_model_files(findings, contents)
        _check_model(findings, contents.folder)
    elif contents.kind == "dataset":
        _check_dataset(findings, contents.folder)
    return findings


_NO_CARD = {
    "model": f"no {CARD}. `save_model_folder` and every command that saves a model write one.",
    "dataset": f"no {CARD}. `lerobot_env_tabletop.record` writes one; for other recordings save the card of "
    "`lerobot.datasets.utils.create_lerobot_dataset_card(license=..., dataset_info=...)` there.",
    "space": f"no {CARD}. A Space needs one, with title, sdk, sdk_version and app_file at its top.",
}


def _check_private(findings: Findings, contents: Contents, owner: str) -> None:
    for name, size in contents.files.items():
        suffix = Path(name).suffix
        if suffix not in (*_CONFIGS, ".py") or name in _VOCABULARY or size > _LARGE:
            continue
        text = (contents.folder / name).read_text(encoding="utf-8", errors="replace")
        for word in dict.fromkeys(private_words(text, owner, paths=suffix in _CONFIGS)):
            findings.error("private", f"{name} holds {word}. Take it out.")


def _expect(findings: Findings, data: dict[str, Any], key: str, wanted: str | None = None) -> None:
    """An error unless the front matter has `key`, holding `wanted` when that is given."""
    value = data.get(key)
    if not value:
        findings.error("card", f"`{key}` is missing at the top of {CARD}{f'; expected {wanted}' if wanted else ''}.")
    elif wanted and wanted not in (value if isinstance(value, list) else [value]):
        findings.error("card", f"`{key}` at the top of {CARD}: expected {wanted}, found {value}.")


def _check_model_card(findings: Findings, contents: Contents) -> None:
    data, text = front_matter(contents.folder), (contents.folder / CARD).read_text(encoding="utf-8")
    _expect(findings, data, "library_name", "transformers")
    _expect(findings, data, "pipeline_tag", "robotics")
    _expect(findings, data, "license")
    picture = f"{FOLDER}/{EXAMPLE}"
    if picture not in contents.files or picture not in text:
        findings.error(
            "card",
            f"the example picture {picture} is not there or not shown in {CARD}. "
            "`st4vla selftest MODEL --write` draws it; the card shows it with ![](...).",
        )
    if not re.search(r"^```bash\n\S", text, re.MULTILINE):
        findings.error("card", f"{CARD} holds no command (a ```bash block) that makes this model again.")
    unstated = re.findall(rf"^\| (.+?) \| {NOT_STATED} \|$", text, re.MULTILINE)
    if unstated:
        names = ", ".join(dict.fromkeys(unstated))
        findings.error("card", f"the licence of {names} is {NOT_STATED!r} in {CARD}. State it there.")
    if data.get("model-index") and "95 % interval" not in text:
        findings.error("card", f"{CARD} names figures (`model-index`) without their 95 % intervals.")
    if not data.get("model-index"):
        findings.info("card", "no figures: evaluate-grounding --card writes them.")
    if not data.get("base_model"):
        findings.info("card", "no `base_model`: add it when the weights come from a published model.")


def _check_model_files(findings: Findings, contents: Contents) -> None:
    """Without the code that `auto_map` names, a repository does not load where this package is not installed."""
    for name in ("config.json", "processor_config.json"):
        try:
            auto_map = json.loads((contents.folder / name).read_text(encoding="utf-8")).get("auto_map") or {}
        except (OSError, ValueError) as error:
            findings.error("files", f"{name} is not readable: {error}")
            continue
        code = {f"{value.split('--')[-1].split('.')[0]}.py" for value in auto_map.values()}
        missing = sorted(code - set(contents.files))
        if not auto_map or missing:
            findings.error(
                "files",
                f"{name} names no source files (`auto_map`)" if not auto_map else f"{name} names {missing}, not there",
            )
    weights = [name for name in contents.left_out if name.endswith((".bin", ".pt", ".pth", ".pkl"))]
    if weights:
        findings.info("files", f"{len(weights)} pickled files stay here; only safetensors are published.")


def _check_model(findings: Findings, folder: Path) -> None:
    from training_st4vla.loading import load_model
    from training_st4vla.selftest import run_selftest, stored_dtype

    try:
        result = run_selftest(*load_model(str(folder), stored_dtype(folder)), folder)
    except (UserError, ValueError, OSError) as error:
        findings.error("load", str(error))
        return
    if not result.passed:
        findings.error(
            "selftest",
            f"this copy computes something else than when it was saved (action error {result.action_error:.1e}, plan "
            f"error {result.plan_error:.1e}, tolerance {result.tolerance:.0e}); see `st4vla selftest {folder}`.",
        )


def _check_dataset_card(findings: Findings, contents: Contents) -> None:
    data = front_matter(contents.folder)
    _expect(findings, data, "license")
    _expect(findings, data, "task_categories", "robotics")
    _expect(findings, data, "tags", "LeRobot")
    _expect(findings, data, "configs")


def _check_dataset(findings: Findings, folder: Path) -> None:
    from training_st4vla.data.errors import DataError
    from training_st4vla.data.lerobot_metadata import open_dataset_info
    from training_st4vla.data.readers import open_reader

    try:
        info = open_dataset_info(folder)
        reader = open_reader(info, episodes=None, cameras=info.cameras)
    except DataError as error:
        findings.error("load", str(error))
        return
    cameras = ", ".join(info.cameras) or "none"
    findings.info("data", f"LeRobot {info.version}, {len(reader.episodes)} episodes, cameras {cameras}.")
    if "unknown" in row_licenses(folder):
        findings.error("license", "rows of the grounding dataset have the licence `unknown`.")


def _check_space_card(findings: Findings, contents: Contents) -> None:
    data = front_matter(contents.folder)
    for key in ("title", "sdk_version", "app_file"):
        _expect(findings, data, key)
    if not data.get("models"):
        findings.warning(
            "card", "`models` names no model at the top of README.md: no model's page will link this Space."
        )
    _expect(findings, data, "sdk", "gradio")
    version, app = str(data.get("sdk_version", "")), str(data.get("app_file", ""))
    if version and not re.fullmatch(r"\d+\.\d+(\.\d+)?", version):
        findings.error("card", f"`sdk_version`: expected a version such as 6.31.0 (in quotes), found {version}.")
    if app and app not in contents.files:
        findings.error("files", f"`app_file`: expected a file of this folder, found none called {app}.")
    if "requirements.txt" not in contents.files:
        findings.error("files", "no requirements.txt: the Space would start without this package.")


_CARDS = {"model": _check_model_card, "dataset": _check_dataset_card, "space": _check_space_card}

__all__ = ["check_contents"]
