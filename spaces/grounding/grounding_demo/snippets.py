"""The same question from Python and from a shell."""

import json
import shlex

import gradio as gr

_PYTHON = """from gradio_client import Client, handle_file

client = Client({url})
answer = client.predict(
    image=handle_file("table.jpg"), text={text}, kind={kind}, api_name="/ground"
)
print(answer["points"], answer["boxes"], answer["traces"])  # pixels of your image
"""
_CURL = """URL={url}/gradio_api
FILE=$(curl -s -F files=@table.jpg "$URL/upload" | sed 's/^\\["//; s/"\\]$//')
EVENT=$(curl -s "$URL/call/v2/ground" -H "Content-Type: application/json" -d {before}"$FILE"{after} \\
  | sed 's/.*"event_id":"//; s/".*//')
curl -sN "$URL/call/ground/$EVENT"
"""


def server_url(request: gr.Request) -> str:
    """The address under which the page was opened."""
    url = request.request.url  # pyright: ignore[reportOptionalMemberAccess]
    return f"{url.scheme}://{url.netloc}"


def python_snippet(url: str, text: str, kind: str) -> str:
    """A question to this server with `gradio_client`."""
    return _PYTHON.format(url=json.dumps(url), text=json.dumps(text, ensure_ascii=False), kind=json.dumps(kind))


def curl_snippet(url: str, text: str, kind: str) -> str:
    """A question to this server with curl."""
    body = json.dumps({"image": {"path": "$FILE", "meta": {"_type": "gradio.FileData"}}, "text": text, "kind": kind})
    before, after = body.split("$FILE", 1)
    # Quoted piece by piece: nothing in a question is ever run by the shell it is pasted into.
    return _CURL.format(url=shlex.quote(url), before=shlex.quote(before), after=shlex.quote(after))


__all__ = ["curl_snippet", "python_snippet", "server_url"]
