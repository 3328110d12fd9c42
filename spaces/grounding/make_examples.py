"""Renders the example pictures, and computes their answers with the model that the demo serves.

    python spaces/grounding/make_examples.py pictures
    python spaces/grounding/make_examples.py answers --model models/tabletop_tiny

The answers are stored with the hash of the model's files: another model never shows them as its own.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from PIL import Image

from grounding_demo.examples import ANSWERS, FOLDER, load_examples
from grounding_demo.grounder import Asked, ModelGrounder
from grounding_demo.limits import open_upload

# picture, task, seed of the split `easy`, which the published model has learned
SCENES = (("scene_a.jpg", "pick_place", 3), ("scene_b.jpg", "pick_place", 11), ("scene_c.jpg", "pick_place", 24))
ACTING = "scene_b.jpg"  # with the wrist view, the example of the Act page
SIZE = 448  # pixels


def save(pixels: Any, name: str) -> None:
    """One JPEG."""
    Image.fromarray(pixels).save(FOLDER / name, quality=88, optimize=True)


def render() -> None:
    """One JPEG per scene, below 40 kB."""
    from lerobot_env_tabletop.env import make_env

    for name, task, seed in SCENES:
        env = make_env(task, "easy", image_size=SIZE)
        observation, info = env.reset(seed=seed)
        save(observation["pixels"]["front"], name)
        if name == ACTING:
            save(observation["pixels"]["wrist"], "act_wrist.jpg")
        visible = sorted(env.ground_truth("front").visible)
        print(f"{name}: {info['instruction']} | {visible} | {(FOLDER / name).stat().st_size} bytes")
        env.close()


def compute_answers(model_path: Path) -> None:
    """`answers.json`, beside the pictures."""
    from training_st4vla.loading import load_grounder
    from training_st4vla.published import model_fingerprint

    fingerprint = model_fingerprint(model_path)
    grounder = ModelGrounder(*load_grounder(str(model_path)), str(model_path), fingerprint)
    answers = {}
    for number, example in enumerate(load_examples()):
        image = open_upload(example.path).image
        answers[number] = Asked(
            grounder.ask(image, example.text, example.kind, False, 256), grounder.name, grounder.device
        ).to_dict()
        print(f"{example.title}: {answers[number]['raw_text']}")
    ANSWERS.write_text(json.dumps({"fingerprint": fingerprint, "answers": answers}, indent=1) + "\n")


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("pictures", "answers"))
    parser.add_argument("--model", type=Path, help="model folder whose answers are stored")
    arguments = parser.parse_args()
    if arguments.what == "pictures":
        render()
    elif arguments.model is None:
        parser.error("answers: --model is needed")
    else:
        compute_answers(arguments.model)


if __name__ == "__main__":
    main()
