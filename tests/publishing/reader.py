"""
Run by test_hub_round_trip.py in a new interpreter with nothing but the Hub's address: downloads and computes.

    python -I reader.py GIVEN.npz FOUND.npz THREADS IMPORT_ROOT ...
"""

import importlib
import sys
from typing import Any

import numpy as np
import torch
from transformers import AutoModel, AutoProcessor

OURS = ("modeling_st4vla", "processing_st4vla", "training_st4vla")


class Blocker:
    """Makes the project's packages impossible to import, however they are installed."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.split(".")[0] in OURS:
            raise ModuleNotFoundError(f"No module named {name!r} (blocked)", name=name)


def run_model(repo_id: str, given: dict[str, np.ndarray]) -> dict[str, Any]:
    """What the published model computes, its code and processor coming from the same repository."""
    model = AutoModel.from_pretrained(repo_id, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(repo_id, trust_remote_code=True)
    inputs = processor(images=[[given["front"]]], text=["push the ball"], state=given["state"])
    actions = model.sample_actions(**inputs, noise=torch.from_numpy(given["noise"]))
    return {
        "input_ids": inputs["input_ids"].numpy(),
        "actions": actions.numpy(),
        "units": processor.post_process_actions(actions),
        "modules": np.array([type(model).__module__, type(processor).__module__]),
    }


def read_dataset(repo_id: str, **options: Any) -> dict[str, Any]:
    """A sample of a published dataset, through this project's data package."""
    from training_st4vla.data.action_dataset import LeRobotActionDataset

    dataset = LeRobotActionDataset(repo_id, chunk_size=4, **options)
    sample = dataset[len(dataset) - 3]
    names = ("images", "actions", "action_is_pad", "instruction", "index")
    return {"length": len(dataset), **{name: np.array(sample[name]) for name in names}}


def main(given_file: str, found_file: str, threads: str, *roots: str) -> None:
    torch.set_num_threads(int(threads))
    given = dict(np.load(given_file))
    blocker = Blocker()
    sys.meta_path.insert(0, blocker)
    found = {f"robot {key}": value for key, value in run_model("me/robot", given).items()}
    found |= {f"plain {key}": value for key, value in run_model("me/plain", given).items()}
    found["imported"] = np.array([name for name in OURS if name in sys.modules])

    sys.meta_path.remove(blocker)
    sys.path[:0] = roots
    importlib.invalidate_caches()
    for name in ("v21", "v30"):
        found |= {f"{name} {key}": value for key, value in read_dataset(f"me/{name}").items()}
    np.savez(found_file, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
