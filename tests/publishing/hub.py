"""A stand-in for the Hugging Face Hub on 127.0.0.1: the endpoints that huggingface_hub calls, all in memory.

Writing needs the token. Files of 10 kB and more, and all that git would call binary, take the large-file path, as on
the Hub. A request that it does not know is answered with 501 and remembered in `unknown`, for a test to notice.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_stand_in"
PREFIXES = {"model": "", "dataset": "datasets/", "space": "spaces/"}
LARGE = 10_000


@dataclass
class Repository:
    """A repository: every commit is a whole tree, `{path: (content, large)}`; refs name commits."""

    kind: str
    name: str
    private: bool
    sdk: str | None
    commits: dict[str, dict[str, tuple[bytes, bool]]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    pull_requests: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.commit("main", {})

    def commit(self, branch: str, tree: dict[str, tuple[bytes, bool]]) -> str:
        """Stores a tree as the branch's newest commit; returns its number."""
        oid = hashlib.sha1(f"{self.kind}{self.name}{len(self.commits)}".encode()).hexdigest()
        self.commits[oid] = tree
        (self.pull_requests if branch.startswith("refs/pr/") else self.branches)[branch] = oid
        return oid

    def resolve(self, revision: str) -> str | None:
        """The commit of a branch, tag, pull request or (short) commit number."""
        for refs in (self.branches, self.tags, self.pull_requests):
            if revision in refs:
                return refs[revision]
        return next((oid for oid in self.commits if oid.startswith(revision)), None)

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """Contents by path."""
        oid = self.resolve(revision)
        return {} if oid is None else {path: content for path, (content, _) in self.commits[oid].items()}


class Hub:
    """The server's state: what tests look at."""

    def __init__(self) -> None:
        self.endpoint = ""
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.unknown: list[str] = []
        self.requests: list[str] = []
        self.lock = threading.RLock()

    def files(self, kind: str, name: str, revision: str = "main") -> dict[str, bytes]:
        """Contents of a repository's files by path."""
        return self.repositories[kind, name].files(revision)


class Refused(Exception):
    """An error answer of the Hub."""

    def __init__(self, status: int, code: str, text: str, **headers: str) -> None:
        super().__init__(text)
        self.status, self.code, self.headers = status, code, headers


def large(path: str, content: bytes) -> bool:
    """Whether the Hub would keep a file outside git."""
    return len(content) >= LARGE or path.endswith((".safetensors", ".parquet", ".mp4", ".png"))


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Routes requests to methods by pattern."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet
    hub: Hub

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer("GET")

    def do_HEAD(self) -> None:
        self._answer("HEAD")

    def do_POST(self) -> None:
        self._answer("POST")

    def do_PUT(self) -> None:
        self._answer("PUT")

    def do_DELETE(self) -> None:
        self._answer("DELETE")

    def _answer(self, method: str) -> None:
        address = urlsplit(self.path)
        self.query = {key: values[-1] for key, values in parse_qs(address.query).items()}
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length) if length else self._read_chunks()
        with self.hub.lock:
            self.hub.requests.append(f"{method} {address.path}")
            for methods, pattern, function in ROUTES:
                found = re.fullmatch(pattern, address.path)
                if method in methods and found:
                    try:
                        function(self, *(unquote(group or "") for group in found.groups()))
                    except Refused as error:
                        headers = {"X-Error-Code": error.code, "X-Error-Message": str(error), **error.headers}
                        self._send(error.status, {"error": str(error)}, headers)
                    except Exception as error:
                        self.hub.unknown.append(f"{method} {self.path}: {error!r}")
                        raise
                    return
            self.hub.unknown.append(f"{method} {self.path}")
            self._send(501, {"error": "the stand-in does not know this"})

    def _read_chunks(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return b""
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _send(self, status: int, value: Any = None, headers: dict[str, str] | None = None) -> None:
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    # What the routes share

    def _require_token(self) -> None:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise Refused(401, "", "Invalid username or password.")

    def _repository(self, kind: str, name: str) -> Repository:
        found = self.hub.repositories.get((kind, name))
        if found is None or (found.private and self.headers.get("Authorization") != f"Bearer {TOKEN}"):
            raise Refused(404, "RepoNotFound", "Repository not found")
        return found

    def _commit(self, repository: Repository, revision: str) -> str:
        oid = repository.resolve(revision)
        if oid is None:
            raise Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return oid

    # Routes

    def create(self) -> None:
        self._require_token()
        asked = json.loads(self.body)
        kind, name = asked.get("type", "model"), f"{asked.get('organization') or 'me'}/{asked['name']}"
        address = f"{self.hub.endpoint}/{PREFIXES[kind]}{name}"
        if name.split("/")[0] != "me":
            raise Refused(403, "", "You don't have the rights to create a model under this namespace")
        if (kind, name) in self.hub.repositories:
            self._send(409, {"error": "You already created this repo", "url": address})
            return
        private = asked.get("visibility") == "private"
        self.hub.repositories[kind, name] = Repository(kind, name, private, asked.get("sdk"))
        self._send(200, {"url": address, "name": name})

    def validate_yaml(self) -> None:
        self._send(200, {"errors": [], "warnings": []})

    def preupload(self, kind: str, name: str, revision: str) -> None:
        self._require_token()
        repository = self._repository(kind, name)
        tree = repository.commits[self._commit(repository, revision)]
        files = []
        for one in json.loads(self.body)["files"]:
            path, sample = one["path"], base64.b64decode(one["sample"])
            mode = "lfs" if one["size"] >= LARGE or large(path, sample) else "regular"
            known = {}
            if path in tree:
                content, is_large = tree[path]
                known = {"oid": hashlib.sha256(content).hexdigest() if is_large else git_oid(content)}
            files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, **known})
        self._send(200, {"files": files})

    def batch(self, name: str) -> None:
        self._require_token()
        objects = []
        for one in json.loads(self.body)["objects"]:
            answer = {"oid": one["oid"], "size": one["size"]}
            if one["oid"] not in self.hub.objects:
                target = f"{self.hub.endpoint}/storage/{one['oid']}"
                answer["actions"] = {"upload": {"href": target}, "verify": {"href": f"{target}/verify"}}
            objects.append(answer)
        self._send(200, {"transfer": "basic", "objects": objects})

    def store(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise Refused(400, "", "The content is not what its name says")
        self.hub.objects[oid] = self.body
        self._send(200, {})

    def verify(self, oid: str) -> None:
        asked = json.loads(self.body)
        right = oid in self.hub.objects and len(self.hub.objects[oid]) == asked["size"]
        self._send(200 if right else 404, {})

    def commit(self, kind: str, name: str, revision: str) -> None:
        self._require_token()
        repository = self._repository(kind, name)
        tree = dict(repository.commits[self._commit(repository, revision)])
        for line in self.body.splitlines():
            item = json.loads(line)
            key, value = item["key"], item["value"]
            if key == "file":
                tree[value["path"]] = (base64.b64decode(value["content"]), False)
            elif key == "lfsFile":
                tree[value["path"]] = (self.hub.objects[value["oid"]], True)
            elif key == "deletedFile":
                del tree[value["path"]]
            elif key != "header":
                raise Refused(400, "", f"unknown operation {key}")
        as_request = self.query.get("create_pr") == "1"
        branch = f"refs/pr/{len(repository.pull_requests) + 1}" if as_request else revision
        oid = repository.commit(branch, tree)
        address = f"{self.hub.endpoint}/{PREFIXES[kind]}{name}"
        answer = {"commitUrl": f"{address}/commit/{oid}", "commitOid": oid}
        if as_request:
            answer["pullRequestUrl"] = f"{address}/discussions/{branch.rsplit('/', 1)[1]}"
        self._send(200, answer)

    def info(self, kind: str, name: str, revision: str = "main") -> None:
        repository = self._repository(kind, name)
        oid = self._commit(repository, revision)
        siblings = [{"rfilename": path} for path in sorted(repository.commits[oid])]
        self._send(200, {"id": name, "sha": oid, "private": repository.private, "tags": [], "siblings": siblings})

    def tree(self, kind: str, name: str, revision: str, folder: str = "") -> None:
        repository = self._repository(kind, name)
        oid = self._commit(repository, revision)
        start = f"{folder}/" if folder else ""
        inside = {path: one for path, one in repository.commits[oid].items() if path.startswith(start)}
        if folder and not inside:
            raise Refused(404, "EntryNotFound", f"{folder} does not exist")
        deep = self.query.get("recursive", "false").lower() in ("true", "1")
        entries = [self._entry(p, one) for p, one in inside.items() if deep or "/" not in p[len(start) :]]
        folders = {p.rsplit("/", depth)[0] for p in inside for depth in range(1, p[len(start) :].count("/") + 1)}
        for path in sorted(folders):
            if deep or "/" not in path[len(start) :]:
                entries.append({"type": "directory", "oid": git_oid(path.encode()), "path": path, "size": 0})
        self._send(200, entries)

    def paths(self, kind: str, name: str, revision: str) -> None:
        repository = self._repository(kind, name)
        tree = repository.commits[self._commit(repository, revision)]
        if self.headers.get("Content-Type", "").startswith("application/json"):
            asked = json.loads(self.body)["paths"]
        else:
            asked = parse_qs(self.body.decode())["paths"]
        self._send(200, [self._entry(path, tree[path]) for path in asked if path in tree])

    def _entry(self, path: str, one: tuple[bytes, bool]) -> dict[str, Any]:
        content, is_large = one
        entry: dict[str, Any] = {"type": "file", "oid": git_oid(content), "size": len(content), "path": path}
        if is_large:
            sha = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"oid": sha, "sha256": sha, "size": len(content), "pointerSize": 130}
        return entry

    def refs(self, kind: str, name: str) -> None:
        repository = self._repository(kind, name)

        def listed(refs: dict[str, str], prefix: str) -> list[dict[str, str]]:
            return [{"name": one, "ref": prefix + one, "targetCommit": oid} for one, oid in refs.items()]

        branches, tags = listed(repository.branches, "refs/heads/"), listed(repository.tags, "refs/tags/")
        self._send(200, {"branches": branches, "tags": tags, "converts": []})

    def tag(self, kind: str, name: str, revision: str) -> None:
        self._require_token()
        repository = self._repository(kind, name)
        if self.command == "DELETE":
            if repository.tags.pop(revision, None) is None:
                raise Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        else:
            asked = json.loads(self.body)["tag"]
            if asked in repository.tags:
                raise Refused(409, "", "Tag reference exists already")
            repository.tags[asked] = self._commit(repository, revision)
        self._send(200, {})

    def resolve(self, prefix: str, name: str, revision: str, path: str) -> None:
        kind = next(kind for kind, one in PREFIXES.items() if one == prefix)
        repository = self._repository(kind, name)
        oid = self._commit(repository, revision)
        if path not in repository.commits[oid]:
            raise Refused(404, "EntryNotFound", "Entry not found", **{"X-Repo-Commit": oid})
        content, is_large = repository.commits[oid][path]
        etag = hashlib.sha256(content).hexdigest() if is_large else git_oid(content)
        headers = {"X-Repo-Commit": oid, "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
        if is_large:
            headers |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(content))}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked:
            first, last = int(asked[1]), int(asked[2] or len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            self._send(206, content[first : last + 1], headers)
        else:
            self._send(200, content, headers)


_KIND, _NAME = "(model|dataset|space)s", "([^/]+/[^/]+)"
ROUTES: list[tuple[str, str, Any]] = [
    ("POST", "/api/repos/create", Handler.create),
    ("POST", "/api/validate-yaml", Handler.validate_yaml),
    ("POST", f"/api/{_KIND}/{_NAME}/preupload/(.+)", Handler.preupload),
    ("POST", f"/(?:datasets/|spaces/)?{_NAME}\\.git/info/lfs/objects/batch", Handler.batch),
    ("PUT", "/storage/([0-9a-f]+)", Handler.store),
    ("POST", "/storage/([0-9a-f]+)/verify", Handler.verify),
    ("POST", f"/api/{_KIND}/{_NAME}/commit/(.+)", Handler.commit),
    ("GET", f"/api/{_KIND}/{_NAME}", Handler.info),
    ("GET", f"/api/{_KIND}/{_NAME}/revision/(.+)", Handler.info),
    ("GET", f"/api/{_KIND}/{_NAME}/tree/([^/]+)", Handler.tree),
    ("GET", f"/api/{_KIND}/{_NAME}/tree/([^/]+)/(.+)", Handler.tree),
    ("POST", f"/api/{_KIND}/{_NAME}/paths-info/(.+)", Handler.paths),
    ("GET", f"/api/{_KIND}/{_NAME}/refs", Handler.refs),
    ("POST DELETE", f"/api/{_KIND}/{_NAME}/tag/(.+)", Handler.tag),
    ("GET HEAD", f"/(datasets/|spaces/)?{_NAME}/resolve/([^/]+)/(.+)", Handler.resolve),
]


@contextmanager
def serve_hub() -> Iterator[Hub]:
    """Serves an empty Hub until the block ends."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("BoundHandler", (Handler,), {"hub": hub}))
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
