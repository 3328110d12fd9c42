"""Words that should stay on this machine: local paths, user names, access tokens."""

import getpass
import re
from collections.abc import Iterator
from pathlib import Path

# Folders in which people and machines keep their own files; and any other that exists here, but for the system's own.
_PERSONAL = {"home", "Users", "root", "mnt", "media", "tmp", "private", "scratch", "workspace", "nfs", "lustre", "fsx"}
_SYSTEM = {"bin", "boot", "dev", "etc", "lib", "lib64", "opt", "proc", "run", "sbin", "srv", "sys", "usr", "var"}
_PATH = re.compile(r"(?<![\w.~/:*{}\]-])/([A-Za-z][\w.-]*)/[\w.-]+|(?<!\w)[A-Za-z]:\\{1,2}[\w.-]+|(?<!\w)~/[\w.-]+")
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{30,}")
_EVERYONE = {"root", "user", "admin", "ubuntu", "runner", "nobody"}


def private_words(text: str, owner: str, *, paths: bool = True) -> Iterator[str]:
    """
    What `text` tells about this machine or its user.

    Args:
        text (`str`): of a card, a config or a source file.
        owner (`str`): of the repository; that name is public anyway.
        paths (`bool`): whether local paths and user names count; source files may name folders of a server.
    """
    for found in _TOKEN.finditer(text):
        yield f"an access token {found.group()[:6]}…"
    if not paths:
        return
    for found in _PATH.finditer(text):
        if found.group(1) is None or _is_personal(found.group(1)):
            yield f"the local path {found.group()}"
    for name in sorted({_login(), Path.home().name} - _EVERYONE - {owner, ""}):
        # With a separator beside it: a user may be called like a word of the text.
        if re.search(rf"(?<!\w){re.escape(name)}[/\\@]|[/\\]{re.escape(name)}(?!\w)", text):
            yield f"the user name {name}"


def _is_personal(top: str) -> bool:
    return top in _PERSONAL or (top not in _SYSTEM and Path("/", top).is_dir())


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        return ""


__all__ = ["private_words"]
