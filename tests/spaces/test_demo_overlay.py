"""What goes into the picture and comes back corrected: data, escaping, exported rows, cached answers."""

import json
import shlex
import subprocess
from pathlib import Path

import pytest

from processing_st4vla import Box, GroundingResult, Point, Trace
from training_st4vla.data.grounding.lerobot import answer_rows
from training_st4vla.errors import UserError
from training_st4vla.published import model_fingerprint

pytest.importorskip("gradio", reason="the demo needs gradio")
from grounding_demo.examples import ANSWERS, FOLDER, AnswerCache, load_examples
from grounding_demo.exporting import events_jsonl
from grounding_demo.facts import facts_html
from grounding_demo.overlay import corrected, overlay, picture, view
from grounding_demo.snippets import curl_snippet, python_snippet

EVIL = '<img src=x onerror="window.hacked=1"> ${alert(1)} {{value}} </script>'
RESULT = GroundingResult(
    (Point((10.5, 20.0), EVIL), Point((1.0, 2.0), "b")),
    (Box((1.0, 2.0, 30.0, 40.0), "plate"),),
    (Trace(((0.0, 0.0), (5.0, 6.0), (7.0, 8.0)), "gripper"),),
    image_size=(64, 48),
    raw_text="",
)
SHOWN = picture(FOLDER / "scene_a.jpg", (64, 48), EVIL, RESULT, annotated=RESULT)


def test_a_value_is_plain_json_and_gives_the_same_result_back() -> None:
    value = json.loads(json.dumps(view([SHOWN])))
    assert corrected(value["pictures"][0]) == RESULT
    assert [layer["editable"] for layer in SHOWN["layers"]] == [True, False]
    assert SHOWN["image"]["meta"] == {"_type": "gradio.FileData"}  # so that Gradio serves it, and nothing else


def test_no_value_reaches_the_template() -> None:
    component = overlay("<b>nothing</b> yet")
    assert "&lt;b&gt;nothing&lt;/b&gt; yet" in component.html_template
    for template in (component.html_template, component.css_template):
        assert not any(mark in template for mark in ("${", "{{", "`"))
    assert "innerHTML" not in component.js_on_load


@pytest.mark.parametrize("bad", [[float("nan"), 1.0], ["1", 2], [1.0], None, [1e400, 0.0]])
def test_what_a_browser_sends_is_checked(bad: object) -> None:
    layer = {"editable": True, "points": [{"xy": bad, "label": "a", "score": None}], "boxes": [], "traces": []}
    with pytest.raises(ValueError, match="xy"):
        corrected({"width": 64, "height": 48, "layers": [layer]})
    with pytest.raises(ValueError, match="no answer"):
        corrected({"width": 64, "height": 48, "layers": []})


def test_exported_rows_are_read_back_as_the_same_coordinates() -> None:
    text = events_jsonl(view([SHOWN]), "observation.images.front", "where?")
    rows = [json.loads(line) for line in text.splitlines()]
    assert {row["image"] for row in rows} == {EVIL}
    assert {row["style"] for row in rows} == {"vqa", "trace"}
    answers = [row for row in rows if row["role"] == "assistant"]
    found = [sample for row in answers for sample in answer_rows(row["content"], "where?", "test")]
    by_kind = {sample["kind"]: sample for sample in found}
    assert by_kind["box"]["boxes"] == [[1.0, 2.0, 30.0, 40.0]]
    assert by_kind["point"]["points"] == [[10.5, 20.0], [1.0, 2.0]]
    assert by_kind["trace"]["traces"] == [[[0.0, 0.0], [5.0, 6.0], [7.0, 8.0]]]


def test_there_must_be_something_to_export() -> None:
    with pytest.raises(UserError, match="Ask first"):
        events_jsonl(None, "observation.images.front", "")
    with pytest.raises(ValueError, match="camera"):
        events_jsonl(view([SHOWN]), "front", "")


def test_facts_are_escaped() -> None:
    answer = {**RESULT.to_dict(), "raw_text": EVIL, "model_size": [28, 28], "device": EVIL, "model": EVIL}
    answer |= {"timings": dict.fromkeys(("preprocess_s", "generate_s", "total_s", "new_tokens", "tokens_per_s"), 1)}
    answer |= {"from_cache": True, "rejected": [{"item": EVIL, "reason": EVIL, "coordinates": []}]}
    html = facts_html([(EVIL, answer), (EVIL, answer)])
    assert "<img" not in html
    assert html.count("&lt;img src=x") == 2 * 6  # name, device, model, text, item, reason


def test_snippets_never_run_what_was_asked() -> None:
    question = "'; touch hacked; $(touch hacked) `touch hacked` \" \\ 紅"
    code = python_snippet("http://127.0.0.1:1", question, "box")
    assert f"text={json.dumps(question, ensure_ascii=False)}" in code
    compile(code, "snippet", "exec")
    curl = curl_snippet("http://127.0.0.1:1", question, "box")
    words = shlex.split(curl.splitlines()[2].split("curl -s ")[1].rstrip("\\"))
    body = words[words.index("-d") + 1].replace("$FILE", "a.png")
    assert json.loads(body)["text"] == question
    assert subprocess.run(["bash", "-n"], input=curl, text=True, check=False).returncode == 0


def test_examples_are_small_and_their_answers_belong_to_one_model(tmp_path: Path) -> None:
    examples = load_examples()
    assert len(examples) >= 6
    assert all(example.path.stat().st_size < 40_000 for example in examples)
    (tmp_path / "answers.json").write_text(json.dumps({"fingerprint": "a", "answers": {"0": {"points": []}}}))
    mine, other = (AnswerCache(name, tmp_path / "answers.json") for name in ("a", "b"))
    assert mine.get(0) == {"points": [], "from_cache": True}
    assert other.get(0) is None
    other.put(0, {"points": [1]})
    assert other.get(0) == {"points": [1], "from_cache": True}


def test_carried_answers_are_those_of_the_published_model() -> None:
    from training_st4vla.published import published_model

    try:
        folder = published_model()
    except UserError:
        pytest.skip("this checkout carries no published model")
    assert json.loads(ANSWERS.read_text())["fingerprint"] == model_fingerprint(folder)


def test_a_fingerprint_changes_with_the_weights(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"a")
    first = model_fingerprint(tmp_path)
    (tmp_path / "README.md").write_text("words do not count")
    assert model_fingerprint(tmp_path) == first
    (tmp_path / "model.safetensors").write_bytes(b"b")
    assert model_fingerprint(tmp_path) != first
    assert model_fingerprint("org/model") is None
