"""
Run by test_model_citizenship.py in a new interpreter: loads a model folder and computes actions and text.

    python -I fresh_process.py registered|remote MODEL_FOLDER GIVEN.npz FOUND.npz THREADS [IMPORT_ROOT ...]
"""

import importlib
import sys

OURS = ("modeling_st4vla", "processing_st4vla", "training_st4vla")


class Blocker:
    """Makes the project's packages impossible to import, however they are installed."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.split(".")[0] in OURS:
            raise ModuleNotFoundError(f"No module named {name!r} (blocked)", name=name)


def main(mode: str, folder: str, given_file: str, found_file: str, threads: str, *roots: str) -> None:
    if mode == "registered":
        sys.path[:0] = roots
        for name in OURS[:2]:
            importlib.import_module(name)
    else:
        sys.meta_path.insert(0, Blocker())
        for name in OURS:
            try:
                importlib.import_module(name)
            except ModuleNotFoundError:
                continue
            raise AssertionError(f"{name} can be imported: this process is no place without the project")

    import numpy as np
    import torch
    from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor

    torch.set_num_threads(int(threads))  # the order of summation, and so the last bit, may depend on it
    options = {"trust_remote_code": True} if mode == "remote" else {}
    model = AutoModel.from_pretrained(folder, **options)
    processor = AutoProcessor.from_pretrained(folder, **options)
    other = AutoModelForImageTextToText.from_pretrained(folder, **options)

    given = dict(np.load(given_file))
    inputs = processor(images=[[given["front"], given["wrist"]]], text=["push the BALL"], state=given["state"])
    noise = torch.from_numpy(given["noise"])
    actions = model.sample_actions(**inputs, noise=noise)
    asked = processor.ground(images=[[given["front"]]], text=["where is the ball?"], kind="box")
    ids = model.generate(**asked, max_new_tokens=12, do_sample=False)
    processor.post_process_grounding(ids, asked)
    np.savez(
        found_file,
        input_ids=inputs["input_ids"].numpy(),
        actions=actions.numpy(),
        same_actions=other.sample_actions(**inputs, noise=noise).numpy(),
        units=processor.post_process_actions(actions),
        tokens=ids.numpy(),
        modules=np.array([type(model).__module__, type(processor).__module__]),
        imported=np.array([name for name in OURS if name in sys.modules]),
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
