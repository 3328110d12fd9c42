"""Is this LeRobot dataset healthy, and does it fit a model? Nothing is changed."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from training_st4vla.data.action_dataset import LeRobotActionDataset
from training_st4vla.data.episode_arrays import column_to_array
from training_st4vla.data.errors import DataError
from training_st4vla.data.findings import Finding, Findings, Level
from training_st4vla.data.frames import FrameSource
from training_st4vla.data.keys import dimension_names, resolve_action_keys, resolve_cameras, resolve_state_keys
from training_st4vla.data.lerobot_metadata import DatasetInfo, Episode, open_dataset_info
from training_st4vla.data.readers import DatasetReader, open_reader, require_files

_EXAMPLES = 3
_STEP_TOLERANCE = 0.1
_FAR_OUT = 10.0
_DARK = 2.0
_OUTSIDE_QUANTILES = 0.05


def check_actions(
    path: str,
    findings: Findings,
    *,
    action_keys: Sequence[str] | None = None,
    state_keys: Sequence[str] | None = None,
    cameras: Sequence[str] | None = None,
    episodes: Sequence[int] | None = None,
    dataset_key: str | None = None,
    model: tuple[Any, Any] | None = None,
    frames: int = 12,
    seed: int = 0,
) -> None:
    """Looks at the metadata, all numbers, and some decoded frames of every camera.

    Args:
        path: Dataset folder or Hub id, v2.1 or v3.0.
        findings: Where to add what is found, and the drawn frames.
        action_keys, state_keys, cameras, episodes: The selection; see [`LeRobotActionDataset`].
        dataset_key: Name of the action contract; the dataset's name by default.
        model: `(config, processor)` to check the fit to.
        frames: Frames to decode per camera.
        seed: Of the frames.
    """
    info = _try(lambda: open_dataset_info(path), findings, "dataset")
    if info is None:
        return
    findings.info("dataset", f"LeRobot {info.version}, {info.fps:g} Hz, robot {info.robot_type or 'not named'}.")
    actions = _action_keys(info, action_keys, findings, needed=model is not None)
    state = _try(lambda: resolve_state_keys(info, state_keys), findings, "state columns") or []
    views = _try(lambda: resolve_cameras(info, cameras), findings, "cameras") or []
    selection = None if episodes is None else [int(number) for number in episodes]
    reader = _try(lambda: open_reader(info, episodes=selection, cameras=[]), findings, "files")
    if reader is None:
        return
    readable = [camera for camera in views if _has_videos(reader, camera, findings)]
    _describe(reader, actions, views, findings)
    _check_instructions(reader, findings)
    values = _check_numbers(reader, [*actions, *state], findings)
    for key in [*actions, *state]:
        if key in values:
            _check_column(info, key, values[key], findings)
    _check_clock(reader, findings)
    _check_frames(reader, readable, findings, frames, seed)
    if model is not None and actions and readable == views:
        _check_model(path, model, actions, state, views, selection, dataset_key, findings)


def _try(action: Callable[[], Any], findings: Findings, name: str) -> Any:
    """The result, or None with the error among the findings."""
    try:
        return action()
    except DataError as error:
        findings.error(name, str(error))
        return None


def _action_keys(info: DatasetInfo, wanted: Sequence[str] | None, findings: Findings, needed: bool) -> list[str]:
    """The action columns; where the choice is open and nothing depends on it, all of them."""
    try:
        return resolve_action_keys(info, wanted)
    except DataError as error:
        found = [key for key, feature in info.features.items() if feature.is_numeric and key.startswith("action.")]
        if needed or wanted or not found:
            findings.error("action columns", str(error))
            return []
        findings.warning("action columns", str(error))
        return found


def _has_videos(reader: DatasetReader, camera: str, findings: Findings) -> bool:
    if reader.info.features[camera].dtype != "video":
        return True
    before = findings.count("error")
    _try(lambda: require_files(reader, [camera], remedy="Copy or download it again."), findings, f"videos {camera}")
    return findings.count("error") == before


def _describe(reader: DatasetReader, actions: Sequence[str], views: Sequence[str], findings: Findings) -> None:
    total = sum(episode.length for episode in reader.episodes)
    seconds = total / reader.info.fps
    findings.info("episodes", f"{len(reader.episodes)} episodes, {total} frames, {seconds / 60:.1f} minutes.")
    for slot, camera in enumerate(views):
        shape = " x ".join(map(str, reader.info.features[camera].shape))
        findings.info("cameras", f"view {slot}: {camera}, {shape}.")
    if actions:
        shown = ", ".join(f"{key} ({reader.info.features[key].dim})" for key in actions)
        findings.info("action columns", f"{shown}.")


def _check_instructions(reader: DatasetReader, findings: Findings) -> None:
    silent = [episode.index for episode in reader.episodes if not any(text.strip() for text in episode.tasks)]
    if silent:
        places = [f"episode {index}" for index in silent[:_EXAMPLES]]
        findings.error("instructions", "episodes have no instruction.", count=len(silent), examples=places)
    texts = {text for episode in reader.episodes for text in episode.tasks if text.strip()}
    findings.info("instructions", f"{len(texts)} different instructions.", examples=sorted(texts)[:_EXAMPLES])
    if len(reader.episodes) >= 20 and len(texts) == 1:
        findings.warning("instructions", "all episodes have the same instruction: words cannot be learnt from it.")


# --- Numbers --------------------------------------------------------------------------------------------------------


def _check_numbers(reader: DatasetReader, keys: Sequence[str], findings: Findings) -> dict[str, np.ndarray]:
    """All values of each column, `[N, dim]`; columns that cannot be read are left out."""
    values: dict[str, np.ndarray] = {}
    for key in dict.fromkeys(keys):
        parts: list[np.ndarray] = []
        errors: list[str] = []
        for episode in reader.episodes:
            try:
                parts.append(_column(reader, episode, key, reader.info.features[key].dim))
            except DataError as error:
                errors.append(str(error))
        if errors:
            text = f"{key}: the numbers of some episodes cannot be used."
            findings.error("numbers", text, count=len(errors), examples=errors[:_EXAMPLES])
        elif parts:
            values[key] = np.concatenate(parts)
    return values


def _column(reader: DatasetReader, episode: Episode, key: str, dim: int) -> np.ndarray:
    where = f"dataset {reader.info.source}, episode {episode.index}"
    table = reader.table(episode, [key])
    if table.num_rows != episode.length:
        raise DataError(f"{where}: {episode.length} frames by the metadata, {table.num_rows} rows in the table.")
    return column_to_array(table, key, dim, dtype=np.float64, where=where)


def _check_column(info: DatasetInfo, key: str, values: np.ndarray, findings: Findings) -> None:
    """Dimensions that never change, and values far beyond the bulk of their dimension."""
    names = dimension_names(info, [key])
    low, high = np.quantile(values, [0.05, 0.95], axis=0)
    still = [name for name, a, b in zip(names, values.min(axis=0), values.max(axis=0), strict=True) if a == b]
    if still:
        text = f"{key}: dimensions never change: {', '.join(still)}."
        level: Level = "warning" if len(still) == len(names) else "info"
        findings.found.append(Finding(level, "constant dimensions", text, len(still)))
    span = np.maximum(high - low, 1e-9)
    far = np.logical_or(values < low - _FAR_OUT * span, values > high + _FAR_OUT * span)
    far &= np.ptp(np.stack([low, high]), axis=0) > 0
    if far.any():
        worst = int(far.sum(axis=0).argmax())
        text = (
            f"{key}: values lie more than {_FAR_OUT:g} times the 5 % to 95 % range beyond it, most in {names[worst]} "
            f"(range {low[worst]:.4g} to {high[worst]:.4g}, extremes {values[:, worst].min():.4g} and "
            f"{values[:, worst].max():.4g})."
        )
        findings.warning("outliers", text, count=int(far.any(axis=1).sum()))


def _check_clock(reader: DatasetReader, findings: Findings) -> None:
    if "timestamp" not in reader.info.features:
        findings.warning("timestamps", "there is no column timestamp; frames are taken to be evenly spaced.")
        return
    step = 1 / reader.info.fps
    odd: list[str] = []
    for episode in reader.episodes:
        try:
            times = _column(reader, episode, "timestamp", 1)[:, 0]
        except DataError as error:
            odd.append(str(error))
            continue
        gaps = np.abs(np.diff(times) - step)
        if len(gaps) and gaps.max() > _STEP_TOLERANCE * step:
            odd.append(f"episode {episode.index}, frame {int(gaps.argmax())}: a step off by {gaps.max():.4g} s")
    if odd:
        text = f"steps between timestamps differ from 1 / {reader.info.fps:g} s by more than {_STEP_TOLERANCE:.0%}."
        findings.warning("timestamps", text, count=len(odd), examples=odd[:_EXAMPLES])


# --- Frames ---------------------------------------------------------------------------------------------------------


def _check_frames(reader: DatasetReader, cameras: Sequence[str], findings: Findings, number: int, seed: int) -> None:
    """Decodes the first and the last frame of some episodes, and frames between, of every camera."""
    from PIL import Image

    source = FrameSource(reader)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(reader.episodes))[: max(1, number // 3)]
    chosen = [reader.episodes[int(index)] for index in order if reader.episodes[int(index)].length]
    places = [
        (episode, row)
        for episode in chosen
        for row in dict.fromkeys((0, int(rng.integers(episode.length)), episode.length - 1))
    ][:number]
    for camera in cameras:
        errors: list[str] = []
        dark: list[str] = []
        shape = reader.info.features[camera].shape
        for episode, row in places:
            where = f"episode {episode.index}, frame {row}"
            try:
                times = _column(reader, episode, "timestamp", 1) if "timestamp" in reader.info.features else None
                time = float(times[row, 0]) if times is not None else row / reader.info.fps
                frame = source.frame(episode, camera, row, time)
            except DataError as error:
                errors.append(str(error))
                continue
            if sorted(frame.shape) != sorted(shape):
                errors.append(f"{where}: shape {list(frame.shape)} instead of {list(shape)}")
            if frame.std() < _DARK:
                dark.append(where)
            if len(findings.pictures) < 3 * number:
                findings.pictures.append((Image.fromarray(frame), f"{camera}, {where}"))
        if errors:
            text = f"{camera}: frames cannot be decoded or have another size."
            findings.error("frames", text, count=len(errors), examples=errors[:_EXAMPLES])
        if 4 * len(dark) > len(places):
            text = f"{camera}: frames are of one colour."
            findings.warning("frames", text, count=len(dark), examples=dark[:_EXAMPLES])


# --- The model ------------------------------------------------------------------------------------------------------


def _check_model(
    path: str,
    model: tuple[Any, Any],
    actions: Sequence[str],
    state: Sequence[str],
    cameras: Sequence[str],
    episodes: list[int] | None,
    dataset_key: str | None,
    findings: Findings,
) -> None:
    from training_st4vla.action_trainer import check_fit
    from training_st4vla.errors import UserError

    config, processor = model
    dataset = _try(
        lambda: LeRobotActionDataset(
            path,
            chunk_size=config.chunk_size,
            action_keys=actions,
            state_keys=state or None,
            cameras=cameras,
            episodes=episodes,
            dataset_key=dataset_key,
        ),
        findings,
        "dataset",
    )
    if dataset is None:
        return
    key, known = dataset.dataset_key, processor.action_contracts
    try:
        check_fit(SimpleNamespace(config=config), processor, dataset)
    except UserError as error:
        findings.error("fit to the model", str(error))
        return
    except ValueError as error:
        if key in known:
            findings.error("fit to the model", str(error))
            return
        text = f"dimensions fit; the model has no action contract {key!r} (it has {sorted(known) or 'none'}). "
        findings.info("fit to the model", text + "Fine-tuning makes one; evaluation needs --dataset-key.")
        return
    contract = processor.contract(key)
    if abs(contract.control_hz - dataset.fps) > 1e-6:
        text = f"the contract {key!r} was made at {contract.control_hz:g} Hz, the dataset has {dataset.fps:g} Hz."
        findings.error("control rate", text)
    findings.info("fit to the model", f"the dataset fits the action contract {key!r}.")
    _check_range(contract, dataset, findings)


def _check_range(contract: Any, dataset: LeRobotActionDataset, findings: Findings) -> None:
    """Actions outside of what the model's normalisation knows."""
    statistics = contract.action.statistics
    if "q01" not in statistics or "q99" not in statistics:
        return
    values = dataset.raw_actions()
    low, high = np.asarray(statistics["q01"]), np.asarray(statistics["q99"])
    outside = np.logical_or(values < low, values > high).mean(axis=0)
    wide = [
        f"{name} {share:.0%}"
        for name, share, mode in zip(contract.action.names, outside, contract.action.normalization, strict=True)
        if mode == "q99" and share > _OUTSIDE_QUANTILES
    ]
    if wide:
        text = "actions lie outside the 1 % to 99 % range that the model was trained with (2 % would be usual): "
        findings.warning("action range", text + ", ".join(wide) + ".", count=len(wide))


__all__ = ["check_actions"]
