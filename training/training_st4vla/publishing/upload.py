"""A checked folder to the Hub, in commits that leave nothing stale behind, compared with what arrived."""

import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.hf_api import RepoFile

from training_st4vla.errors import UserError
from training_st4vla.publishing.contents import CARD, Contents, Kind

# What an older version of the repository may still hold and a reader would take for current: a reader of sharded
# weights prefers a single file, and LeRobot's loaders take every file of these folders.
_STALE = {
    "model": ["*.safetensors", "*.safetensors.index.json"],
    "dataset": ["meta/*", "data/*", "videos/*", "grounding/*"],
    "space": None,
}


def upload(contents: Contents, repo_id: str, *, private: bool = False, create_pr: bool = False) -> str:
    """
    Creates the repository when it is absent, uploads, and compares names and sizes with the Hub's own list.

    An interrupted upload goes on where it stopped when the same call is made again. Earlier versions of an existing
    repository stay in its history.

    Args:
        contents (`Contents`): checked. repo_id (`str`): `owner/name`.
        private (`bool`): whether a new repository is. create_pr (`bool`): as a pull request instead of a commit.

    Returns:
        The address of the commit or pull request.

    Raises:
        UserError: when the Hub refuses, or holds something else afterwards.
    """
    api, kind = HfApi(library_name="st4vla"), contents.kind
    try:
        sdk: Any = "gradio" if kind == "space" else None
        api.create_repo(repo_id, repo_type=kind, private=private or None, exist_ok=True, space_sdk=sdk)
        with staged(contents, repo_id) as folder:
            commit = api.upload_folder(
                repo_id=repo_id,
                repo_type=kind,
                folder_path=folder,
                create_pr=create_pr,
                delete_patterns=_STALE[kind],
                commit_message=f"Upload {kind} with st4vla",
            )
            _compare(api, folder, repo_id, kind, commit.pr_revision)
        if kind == "dataset" and not create_pr:
            _tag_version(api, contents.folder, repo_id)
    except HfHubHTTPError as error:
        raise UserError(_explain(error, repo_id)) from error
    return commit.pr_url or str(commit.repo_url)


@contextmanager
def staged(contents: Contents, repo_id: str) -> Iterator[Path]:
    """
    A scratch folder that links to the files that are published, and to no others. A model's card calls the model by
    its folder; on the Hub its examples name the repository.
    """
    with tempfile.TemporaryDirectory(prefix="st4vla-push-") as scratch:
        for name in contents.files:
            target = Path(scratch, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to((contents.folder / name).resolve())
        if contents.kind == "model" and CARD in contents.files:
            text = (contents.folder / CARD).read_text(encoding="utf-8")
            text = re.sub(r'(from_pretrained\(")[^"]+(")', rf"\g<1>{repo_id}\g<2>", text)
            card = Path(scratch, CARD)
            card.unlink()
            card.write_text(text, encoding="utf-8")
        yield Path(scratch)


def _compare(api: HfApi, folder: Path, repo_id: str, kind: Kind, revision: str | None) -> None:
    tree = api.list_repo_tree(repo_id, recursive=True, repo_type=kind, revision=revision)
    there = {entry.path: entry.size for entry in tree if isinstance(entry, RepoFile)}
    here = {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    wrong = sorted(name for name, size in here.items() if there.get(name) != size)
    if wrong:
        raise UserError(
            f"{repo_id}: after the upload the Hub holds {len(wrong)} of {len(here)} files not, or with another size "
            f"({', '.join(wrong[:3])}). Give the same command again."
        )


def _tag_version(api: HfApi, folder: Path, repo_id: str) -> None:
    """LeRobot opens a dataset at the tag of its format version."""
    version = str(json.loads((folder / "meta" / "info.json").read_text(encoding="utf-8"))["codebase_version"])
    if any(tag.name == version for tag in api.list_repo_refs(repo_id, repo_type="dataset").tags):
        api.delete_tag(repo_id, tag=version, repo_type="dataset")
    api.create_tag(repo_id, tag=version, repo_type="dataset")


def _explain(error: HfHubHTTPError, repo_id: str) -> str:
    status = error.response.status_code
    remedy = {
        401: "Log in with `hf auth login`, or set HF_TOKEN to a token that may write.",
        403: f"Check that your token may write to {repo_id.split('/')[0]}.",
    }.get(status, "Give the same command again; files that arrived are not sent again.")
    said = error.server_message or str(error).splitlines()[0]
    return f"--repo-id {repo_id}: the Hub refused ({status}: {said}). {remedy}"


__all__ = ["staged", "upload"]
