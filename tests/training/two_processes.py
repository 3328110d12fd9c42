"""Run by `accelerate launch`: a run on a saved model, the same run resumed, and what both computed, into one file.

usage: two_processes.py MODEL DATASET OUTPUT BATCH_SIZE [fsdp]
"""

import os
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
from training_st4vla.saving import publish_into
from training_st4vla.sharding import whole_model

STEPS, SAVED = 9, 7  # of 6 steps an epoch: the checkpoint lies within the second one


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


def build(
    model_path: str, dataset_path: str, output: Path, batch_size: int
) -> tuple[InjectedNoiseTrainer, GradientRecorder]:
    """A trainer on the processes it was launched with."""
    model = ST4VLAForActionPrediction.from_pretrained(model_path, dtype=torch.float32)
    processor = ST4VLAProcessor.from_pretrained(model_path)
    dataset = LeRobotActionDataset(dataset_path, chunk_size=model.config.chunk_size, action_keys=["action"])
    contract = build_contract(dataset, shipped_declaration(dataset))
    processor.action_contracts[dataset.dataset_key] = contract.to_dict()
    recorder = GradientRecorder()
    trainer = InjectedNoiseTrainer(
        model=model,
        args=SpatialActionConfig(
            output_dir=str(output),
            max_steps=STEPS,
            per_device_train_batch_size=batch_size,
            learning_rate=1e-3,
            vlm_learning_rate=1e-3,
            action_expert_learning_rate=1e-3,
            # Large, so that a gradient's rounding error stays an error of that size in the step it causes.
            adam_epsilon=1e-3,
            grounding_ratio=0.5,
            logging_steps=1,
            save_steps=SAVED,
            max_grad_norm=5.0,
            dataloader_drop_last=True,
            use_cpu=True,
            disable_tqdm=True,
            seed=3,
        ),
        train_dataset=dataset,
        grounding_dataset=grounding_samples(),
        processing_class=processor,
        callbacks=[recorder],
    )
    return trainer, recorder


def run(model_path: str, dataset_path: str, output: str, batch_size: int) -> None:
    """Trains, saves a model folder beside `output`, resumes from the checkpoint, and writes the record."""
    folder = Path(output).with_suffix("")
    trainer, recorder = build(model_path, dataset_path, folder, batch_size)
    trainer.train()
    saved = whole_model(trainer)
    if trainer.is_world_process_zero():
        publish_into(folder, saved.eval(), trainer.processing_class, summary="two processes")
    resumed, _ = build(model_path, dataset_path, folder, batch_size)
    resumed.train(resume_from_checkpoint=str(folder / f"checkpoint-{SAVED}"))
    if trainer.is_world_process_zero():
        names = ("loss", "action_loss", "lm_loss", "grad_norm")
        record = {
            "processes": trainer.args.world_size,
            "engine": [name for name in ("fsdp", "deepspeed") if getattr(trainer, f"is_{name}_enabled")],
            "losses": {name: losses(trainer, name) for name in names},
            "resumed": {name: losses(resumed, name) for name in names},
            "gradients": recorder.steps,
        }
        if trainer.is_deepspeed_enabled:
            record["clipping"] = trainer.deepspeed.gradient_clipping()
        torch.save(record, output)


def let_fsdp_run_on_the_cpu() -> None:
    """FSDP2 runs on the CPU with gloo; accelerate 1.15 offers it for accelerators only, and is told otherwise."""
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import DistributedType

    start = AcceleratorState.__init__

    def as_if_on_gpus(self: AcceleratorState, *args: object, **kwargs: object) -> None:
        shared = PartialState._shared_state
        if shared.get("distributed_type") == DistributedType.MULTI_CPU:
            shared["distributed_type"] = DistributedType.MULTI_GPU
        start(self, *args, **kwargs)

    AcceleratorState.__init__ = as_if_on_gpus
    os.environ["ACCELERATE_USE_FSDP"] = "true"


if __name__ == "__main__":
    if sys.argv[5:] == ["fsdp"]:
        let_fsdp_run_on_the_cpu()
    run(*sys.argv[1:4], batch_size=int(sys.argv[4]))
