"""Which columns make the action, the state and the camera slots; an open choice is asked for by name."""

from collections.abc import Sequence

from training_st4vla.data.errors import DataError, explain
from training_st4vla.data.lerobot_metadata import DatasetInfo


def resolve_action_keys(info: DatasetInfo, wanted: Sequence[str] | None) -> list[str]:
    """Full keys of the action columns.

    Without `wanted`, a dataset that has a column `action`, or a single one under `action.`, needs no choice.

    Raises:
        DataError: The choice is open (all candidates are listed with their dimensions), or a key does not exist.
    """
    numeric = _numeric(info)
    if wanted:
        return _resolve(info, wanted, numeric, "--action-keys", "numeric column")
    found = [key for key in numeric if key == "action"] or [key for key in numeric if key.startswith("action.")]
    if len(found) == 1:
        return found
    raise DataError(
        explain(
            "The action columns must be named" if found else "The dataset has no action column",
            where=info.source,
            expected="one numeric feature `action`, or a choice",
            found=_with_dims(info, found or numeric),
            remedy="Pass them with --action-keys, in the order in which they are to form the action vector.",
        )
    )


def resolve_state_keys(info: DatasetInfo, wanted: Sequence[str] | None) -> list[str]:
    """Full keys of the state columns; none unless asked for.

    Raises:
        DataError: A key does not exist.
    """
    return _resolve(info, wanted, _numeric(info), "--state-keys", "numeric column") if wanted else []


def resolve_cameras(info: DatasetInfo, wanted: Sequence[str] | None) -> list[str]:
    """Full keys of the cameras in slot order; all colour cameras, in the order of `info.json`, unless asked otherwise.

    Raises:
        DataError: There is no camera, or one that was asked for does not exist.
    """
    if wanted:
        return _resolve(info, wanted, info.cameras, "--cameras", "camera")
    if not info.cameras:
        raise DataError(
            explain(
                "The dataset has no camera",
                where=info.source,
                expected="at least one feature of dtype video or image",
                found=", ".join(info.features) or "no feature",
                remedy="A vision-language-action model needs images: choose another dataset.",
            )
        )
    return info.cameras


def dimension_names(info: DatasetInfo, keys: Sequence[str]) -> list[str]:
    """One name per dimension of the joined keys: the feature's own `names`, else `key[i]`."""
    features = [info.features[key] for key in keys]
    return [
        name
        for feature in features
        for name in (feature.names or [f"{feature.key}[{index}]" for index in range(feature.dim)])
    ]


def _numeric(info: DatasetInfo) -> list[str]:
    return [key for key, feature in info.features.items() if feature.is_numeric]


def _with_dims(info: DatasetInfo, keys: Sequence[str]) -> str:
    return ", ".join(f"{key} ({info.features[key].dim})" for key in keys) or "none"


def _resolve(info: DatasetInfo, wanted: Sequence[str], known: Sequence[str], flag: str, kind: str) -> list[str]:
    if isinstance(wanted, str):
        raise DataError(f"{flag} takes a list of names, found the single string {wanted!r}. Pass [{wanted!r}].")
    keys = [_match(info, name, known, flag, kind) for name in wanted]
    repeated = sorted({key for key in keys if keys.count(key) > 1})
    if repeated:
        raise DataError(
            explain(
                f"A {kind} is named twice",
                where=f"{info.source}, {flag}",
                expected="each at most once",
                found=", ".join(repeated),
                remedy=f"Remove the repetition from {flag}.",
            )
        )
    return keys


def _match(info: DatasetInfo, name: str, known: Sequence[str], flag: str, kind: str) -> str:
    """The known key that equals `name`, or the only one that ends in it (`base_view` for `video.base_view`)."""
    matches = [key for key in known if key == name] or [key for key in known if key.endswith(f".{name}")]
    if len(matches) == 1:
        return matches[0]
    listing = ", ".join(known) if kind == "camera" else _with_dims(info, known)
    raise DataError(
        explain(
            f"The {kind} {name!r} is ambiguous" if matches else f"There is no {kind} {name!r}",
            where=f"{info.source}, {flag}",
            expected=f"one of {', '.join(matches) if matches else listing or 'none'}",
            found=repr(name),
            remedy=f"Give {flag} full names from this list.",
        )
    )
