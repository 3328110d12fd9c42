"""bfloat16 is chosen where it pays, and only where the user did not choose."""

from pathlib import Path
from typing import Any

import pytest
import torch

from training_st4vla.grounding_config import SpatialGroundingConfig
from training_st4vla.precision import multiplies_bfloat16


@pytest.mark.parametrize("hardware", [True, False])
def test_stage_1_trains_in_bfloat16_where_the_hardware_multiplies_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hardware: bool
) -> None:
    monkeypatch.setattr("training_st4vla.grounding_config.multiplies_bfloat16", lambda device: hardware)
    assert SpatialGroundingConfig(str(tmp_path), use_cpu=True).bf16 is hardware
    assert SpatialGroundingConfig(str(tmp_path), use_cpu=True, bf16=not hardware).bf16 is not hardware


def test_accelerators_and_cpus_with_the_instructions() -> None:
    assert multiplies_bfloat16("cuda")
    assert multiplies_bfloat16(torch.device("mps"))
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    if "avx2" in flags:
        assert multiplies_bfloat16("cpu") == ("avx512_bf16" in flags)


@pytest.mark.parametrize(("hardware", "found"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_loads_what_the_device_can_multiply(
    monkeypatch: Any, tmp_path: Path, model: Any, processor: Any, hardware: bool, found: torch.dtype
) -> None:
    from training_st4vla.loading import load_model

    monkeypatch.setattr("training_st4vla.loading.multiplies_bfloat16", lambda device: hardware)
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert load_model(str(tmp_path), "auto", "cpu")[0].dtype == found
    assert load_model(str(tmp_path), "bfloat16", "cpu")[0].dtype == torch.bfloat16
