"""Run by `accelerate launch`: a few steps on a saved model, and what every optimiser step saw, into one file.

usage: two_processes.py MODEL DATASET OUTPUT BATCH_SIZE
"""

import sys
from pathlib import Path

import numpy as np
import torch
from injected_noise import GradientRecorder, InjectedNoiseTrainer, losses
from PIL import Image

from modeling_st4vla import ST4VLAForActionPrediction
from processing_st4vla import Box, GroundingResult, ST4VLAProcessor
from training_st4vla.action_config import SpatialActionConfig
from training_st4vla.data.action_dataset import LeRobotActionDataset
from training_st4vla.data.contracts import build_contract, shipped_declaration


def grounding_samples() -> list[dict]:
    """Questions whose answers have one to three boxes: the processes supervise different numbers of tokens."""
    samples = []
    for number in range(7):
        picture = np.random.default_rng(number).integers(0, 256, (120, 160, 3), dtype=np.uint8)
        boxes = tuple(Box(xyxy=(5.0 + k, 6.0, 40.0 + number, 60.0), label="cube") for k in range(1 + number % 3))
        answer = GroundingResult(boxes=boxes, image_size=(160, 120))
        samples.append(
            {"image": Image.fromarray(picture), "instruction": f"find {number}", "kind": "box", "answer": answer}
        )
    return samples


def run(model_path: str, dataset_path: str, output: str, batch_size: int) -> None:
    """Trains three steps on the processes it was launched with."""
    model = ST4VLAForActionPrediction.from_pretrained(model_path, dtype=torch.float32)
    processor = ST4VLAProcessor.from_pretrained(model_path)
    dataset = LeRobotActionDataset(dataset_path, chunk_size=model.config.chunk_size, action_keys=["action"])
    contract = build_contract(dataset, shipped_declaration(dataset))
    processor.action_contracts[dataset.dataset_key] = contract.to_dict()
    recorder = GradientRecorder()
    trainer = InjectedNoiseTrainer(
        model=model,
        args=SpatialActionConfig(
            output_dir=str(Path(output).with_suffix("")),
            max_steps=3,
            per_device_train_batch_size=batch_size,
            learning_rate=1e-3,
            vlm_learning_rate=1e-3,
            action_expert_learning_rate=1e-3,
            grounding_ratio=0.5,
            logging_steps=1,
            save_strategy="no",
            max_grad_norm=1e9,
            use_cpu=True,
            disable_tqdm=True,
            seed=3,
        ),
        train_dataset=dataset,
        grounding_dataset=grounding_samples(),
        processing_class=processor,
        callbacks=[recorder],
    )
    trainer.train()
    if trainer.is_world_process_zero():
        names = ("loss", "action_loss", "lm_loss")
        torch.save(
            {
                "processes": trainer.args.world_size,
                "losses": {name: losses(trainer, name) for name in names},
                "gradients": recorder.steps,
            },
            output,
        )


if __name__ == "__main__":
    run(*sys.argv[1:4], batch_size=int(sys.argv[4]))
