"""The endpoints: the same numbers as the command and the Python API, for several users; errors in words."""

import json
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from training_st4vla.acting import act
from training_st4vla.asking import ask
from training_st4vla.commands.main import main
from training_st4vla.errors import UserError
from training_st4vla.loading import load_grounder
from training_st4vla.published import published_model

pytest.importorskip("gradio", reason="the demo needs gradio")
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from grounding_demo.grounder import ModelGrounder, NoModel
from grounding_demo.serving import load_or_explain
from grounding_demo.snippets import curl_snippet

FIELDS = ("points", "boxes", "traces", "image_size", "raw_text", "rejected")


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published model, or a new tiny one where this checkout carries none."""
    try:
        return published_model()
    except UserError:
        folder = tmp_path_factory.mktemp("init") / "tiny"
        flags = ["--dtype", "float32", "--image-size", "112", "--action-dim", "3", "--chunk-size", "5"]
        assert main(["init", "--preset", "tiny", "--output", str(folder), *flags]) == 0
        return folder


@pytest.fixture(scope="module")
def grounder(model_folder: Path) -> ModelGrounder:
    """The model, loaded."""
    return ModelGrounder(*load_grounder(str(model_folder)), str(model_folder))


@pytest.fixture(scope="module")
def client(serve: Callable[[Any], str], grounder: ModelGrounder) -> Client:
    """A client of a page over the model."""
    return Client(serve(grounder), verbose=False)


@pytest.fixture(scope="module")
def fixed_client(fixed_page: str) -> Client:
    """A client of the page with fixed answers."""
    return Client(fixed_page, verbose=False)


def test_client_command_and_python_give_the_same_numbers(
    client: Client, grounder: ModelGrounder, model_folder: Path, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    question = "the red cube"
    found = client.predict(image=handle_file(table), text=question, kind="box", max_new_tokens=24, api_name="/ground")
    capsys.readouterr()
    flags = ["--kind", "box", "--max-new-tokens", "24", "--model", str(model_folder)]
    assert main(["ground", str(table), question, *flags, "--output", str(table.with_suffix(".drawn.png"))]) == 0
    printed = json.loads(capsys.readouterr().out)
    direct = ask(grounder.model, grounder.processor, Image.open(table), question, "box", max_new_tokens=24)
    assert {field: found[field] for field in FIELDS} == {field: printed[field] for field in FIELDS}
    assert printed == json.loads(json.dumps(direct.result.to_dict()))
    assert found["timings"]["new_tokens"] <= 24
    assert found["timings"]["total_s"] >= found["timings"]["generate_s"] > 0


def test_every_endpoint_has_a_name_and_the_page_ones_are_not_listed(fixed_client: Client) -> None:
    listed = fixed_client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert {"/ground"} <= set(listed) <= {"/ground", "/act", "/compare"}
    config = fixed_client.config["dependencies"]
    assert all(one["api_name"] for one in config if one["backend_fn"] and one["api_visibility"] != "undocumented")


def test_numbers_are_plain_json(fixed_client: Client, table: Path) -> None:
    found = fixed_client.predict(image=handle_file(table), text="where?", api_name="/ground")
    assert found["points"][0] == {"xy": [160.0, 300.0], "label": "red block", "score": None}
    assert found["boxes"] == [{"xyxy": [320.0, 160.0, 512.0, 360.0], "label": "plate"}]
    assert found["traces"][0]["points"][0] == [64.0, 80.0]
    assert found["timings"]["generate_s"] == 0.82


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ("", "Write what to find"),
        ("x" * 10_000, "at most 1,000 characters"),
        ("fail", r"did not work \(RuntimeError\)"),
    ],
)
def test_errors_reach_a_client_in_words(fixed_client: Client, table: Path, question: str, message: str) -> None:
    with pytest.raises(AppError, match=message) as caught:
        fixed_client.predict(image=handle_file(table), text=question, api_name="/ground")
    assert "secret" not in str(caught.value)
    with pytest.raises(AppError, match="Choose an image first"):
        fixed_client.predict(image=None, text="where?", api_name="/ground")


def test_no_file_of_the_server_can_be_asked_about(fixed_page: str, table: Path) -> None:
    image = {"path": str(table), "meta": {"_type": "gradio.FileData"}}  # exists, and was never uploaded
    call = f"{fixed_page}/gradio_api/call"
    body = {"data": [image, "where?", "auto", False, 8]}
    event = httpx.post(f"{call}/ground", json=body).json()["event_id"]
    answer = httpx.get(f"{call}/ground/{event}", timeout=60).text
    assert "event: error" in answer
    assert "points" not in answer


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl is installed")
def test_the_shell_snippet_works(fixed_page: str, table: Path) -> None:
    script = curl_snippet(fixed_page, 'it\'s "there"; $(exit 7)', "point")
    Image.open(table).save(table.with_suffix(".jpg"))
    done = subprocess.run(["bash", "-euc", script], cwd=table.parent, capture_output=True, text=True, check=True)
    data = next(line for line in done.stdout.splitlines() if line.startswith("data: ["))
    assert json.loads(data[6:])[0]["points"][0]["xy"] == [160.0, 300.0]


def test_four_users_at_once(client: Client, table: Path) -> None:
    def one(number: int) -> dict[str, Any]:
        return client.predict(image=handle_file(table), text=f"cube {number}", max_new_tokens=4, api_name="/ground")

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(one, range(4)))
    assert [answer["image_size"] for answer in answers] == [[640, 400]] * 4


def test_act_gives_the_numbers_of_the_python_api(
    serve: Callable[[Any], str], build_model: Callable, processor: Any, make_contract: Callable, table: Path
) -> None:
    processor.action_contracts["arm"] = make_contract(cameras=("observation.images.front",))
    grounder = ModelGrounder(build_model(state_dim=4), processor, "small")
    assert grounder.no_actions is None
    client = Client(serve(grounder), verbose=False)
    state = [0.1, 0.2, 0.3, 3.0]
    found = client.predict("put it there", "0.1, 0.2 0.3 3", "arm", 3, handle_file(table), api_name="/act")
    direct = act(grounder.model, processor, [Image.open(table)], "put it there", state, "arm", seed=3)
    assert np.allclose(found["actions"], direct.actions, atol=1e-6)
    assert found["units"] == ["m", "m", "1"]
    with pytest.raises(AppError, match="expected 4 finite numbers"):
        client.predict("put it there", "1 2", "arm", 3, handle_file(table), api_name="/act")


def test_why_a_model_cannot_act(build_model: Callable, processor: Any) -> None:
    model = build_model()
    assert "no action contract" in str(ModelGrounder(model, processor, "small").no_actions)
    assert "plain vision-language model" in str(ModelGrounder(model.vlm, processor, "small").no_actions)


def test_a_page_without_a_model_says_so(serve: Callable[[Any], str], tmp_path: Path, table: Path) -> None:
    found = load_or_explain(str(tmp_path))  # a folder that is no model
    assert isinstance(found, NoModel)
    client = Client(serve(found), verbose=False)
    with pytest.raises(AppError, match=r"expected a model folder with config\.json"):
        client.predict(image=handle_file(table), text="where?", api_name="/ground")
