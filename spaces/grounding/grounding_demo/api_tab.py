"""The API page: what the endpoints take and give."""

import gradio as gr

from grounding_demo.limits import MAX_FILE_MB, MAX_NEW_TOKENS, MAX_PIXELS, MAX_PROMPT, MAX_QUEUE
from grounding_demo.snippets import curl_snippet, python_snippet, server_url

_TEXT = """### Numbers, not pictures

`/ground` answers with JSON. Coordinates are pixels of the image you sent, upright, origin at its top left corner.

| input | |
| --- | --- |
| `image` | one file; at most {mb} MB and {megapixels} megapixels |
| `text` | what to find; at most {prompt:,} characters |
| `kind` | `auto`, `point`, `box`; or the text is a task: `trace` (its path), `spatial` (asked as for acting) |
| `native_size` | `true`: asked at the image's own size instead of the processor's |
| `max_new_tokens` | 1 to {tokens} |

| output | |
| --- | --- |
| `points` | `[{{"xy": [x, y], "label", "score"}}]` |
| `boxes` | `[{{"xyxy": [x1, y1, x2, y2], "label"}}]` |
| `traces` | `[{{"points": [[x, y], ...], "label"}}]`, in order |
| `rejected` | `[{{"item", "reason", "coordinates"}}]`: what was written but could not be used |
| `raw_text` | the model's words |
| `image_size`, `model_size` | (width, height) of your image, and of what the model saw |
| `timings` | `preprocess_s`, `generate_s`, `parse_s`, `total_s`, `new_tokens`, `tokens_per_s` |
| `model`, `device`, `notes`, `from_cache` | `notes`: what was converted in your file |

The same numbers come from `st4vla ground IMAGE TEXT` and, in Python, from
`training_st4vla.asking.ask(model, processor, image, text, kind)`. An error is a message in words. At most {queue}
requests wait; one runs at a time.
"""
_ACT = """### Actions

`/act` takes `text`, `state` (numbers separated by commas, or empty for the mean of the training data), `dataset_key`,
`seed` and the camera views in the contract's order; it answers `actions` `[steps, dimensions]` with `names`, `units`,
`representation`, `frame`, `rotation`, `gripper_polarity`, `control_hz`, `clipped` (how many numbers) and `grounding`.
Predictions only: nothing moves.
"""


def _snippets(request: gr.Request) -> tuple[str, str]:
    url = server_url(request)
    return python_snippet(url, "the red block", "box"), curl_snippet(url, "the red block", "box")


def build_api_tab(page: gr.Blocks, acts: bool) -> None:
    """The page's text; the snippets get the address under which the page was opened."""
    gr.Markdown(
        _TEXT.format(
            mb=MAX_FILE_MB,
            megapixels=MAX_PIXELS // 1_000_000,
            prompt=MAX_PROMPT,
            tokens=MAX_NEW_TOKENS,
            queue=MAX_QUEUE,
        ),
        elem_id="api",
    )
    python = gr.Code(label="Python", language="python", interactive=False, wrap_lines=True)
    curl = gr.Code(label="curl", language="shell", interactive=False, wrap_lines=True)
    page.load(_snippets, None, [python, curl], api_name="snippets", api_visibility="undocumented", queue=False)
    if acts:
        gr.Markdown(_ACT)


__all__ = ["build_api_tab"]
