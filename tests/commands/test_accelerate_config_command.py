"""`st4vla accelerate-config`: every launch config of the package is found by name and read by accelerate."""

from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("name", "engine"), [("ddp", "MULTI_GPU"), ("fsdp2", "FSDP"), ("zero2", "DEEPSPEED"), ("zero3", "DEEPSPEED")]
)
def test_a_config_is_found_by_name(name: str, engine: str, capsys: pytest.CaptureFixture[str]) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    from training_st4vla.commands.main import main

    assert main(["accelerate-config", name]) == 0
    path = Path(capsys.readouterr().out.strip())
    config = load_config_from_file(str(path))
    assert config.distributed_type == engine
    assert config.mixed_precision == "bf16"


def test_an_unknown_name_lists_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    from training_st4vla.commands.main import main

    assert main(["accelerate-config", "fsdp9"]) == 1
    assert "name: expected one of ddp, fsdp2, zero2, zero3, found 'fsdp9'" in capsys.readouterr().err
