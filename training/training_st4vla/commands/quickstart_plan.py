"""How `st4vla quickstart` divides its minutes: sizes of every step, from the time given and the machine's speed."""

from dataclasses import asdict, dataclass
from typing import Any

# Shares of the time given; what is left over pays for loading, saving and the report.
RECORDING, GROUNDING, ACTIONS, EVALUATION = 0.12, 0.28, 0.42, 0.1
# What two cores were seen to do (2026-11-24); only the announcement and the number of episodes rest on it.
SECONDS_PER_DEMONSTRATION = 0.8
SECONDS_PER_EPISODE = 3.0

IMAGE_SIZE = 112
BATCH_SIZE = 16
# Stage 1: images of a batch, and questions about each.
IMAGES, QUESTIONS_PER_IMAGE = 8, 4
# What stage 1 asks about. Answers about several things and paths are long: they would get most of the loss, and words
# would not be tied to things (400 steps of 8 images, easy scenes, 2026-11-25: 32 % of the order's objects boxed and
# 48 % pointed to; after 1,425 steps of all roles 28 % boxed).
ROLES = ("object", "target")
CHUNK_SIZE = 8


@dataclass(frozen=True)
class Plan:
    """
    Sizes of a quickstart run. Saved in its folder: a rerun resumes with the same sizes.

    Args:
        minutes (`float`): asked for. device (`str`): `cpu`, `cuda` or `mps`.
        demonstrations, test_demonstrations (`int`): recorded episodes to learn from, and to question.
        episodes (`int`): closed-loop episodes of the evaluation. questions (`int`): grounding questions asked.
        grounding_steps, action_steps (`int`, *optional*): optimiser steps; chosen once the machine's speed is known.
    """

    minutes: float
    device: str
    demonstrations: int
    test_demonstrations: int
    episodes: int
    questions: int
    grounding_steps: int | None = None
    action_steps: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready fields."""
        return asdict(self)

    def describe(self, output: str) -> str:
        """What is going to happen, for the person who waits."""
        return (
            f"quickstart, about {self.minutes:g} minutes on {self.device}; everything goes to {output}:\n"
            f"  1. record {self.demonstrations} demonstrations of a simulated arm (and {self.test_demonstrations} to "
            "ask about later)\n"
            f"  2. make a tiny model from nothing\n"
            f"  3. stage 1, {60 * self.minutes * GROUNDING:.0f} s: teach it where things are (points and boxes)\n"
            f"  4. stage 2, {60 * self.minutes * ACTIONS:.0f} s: teach it to act, grounding beside it\n"
            f"  5. ask it {self.questions} questions, and let it act in {self.episodes} new scenes\n"
            "  6. load it again with from_pretrained, and write report.html\n"
            "Interrupt it when you like: the same command goes on where it stopped."
        )


def make_plan(minutes: float, device: str) -> Plan:
    """The sizes that follow from the time alone."""
    seconds = 60 * minutes
    demonstrations = max(8, round(seconds * RECORDING / SECONDS_PER_DEMONSTRATION))
    return Plan(
        minutes=minutes,
        device=device,
        demonstrations=demonstrations,
        test_demonstrations=max(2, demonstrations // 20),
        episodes=max(2, min(200, round(seconds * EVALUATION / SECONDS_PER_EPISODE))),
        questions=max(12, min(300, round(8 * minutes))),
    )


def steps_within(seconds: float, seconds_per_step: float) -> int:
    """Optimiser steps that fit, at least 5."""
    return max(5, int(seconds / seconds_per_step))


__all__ = [
    "ACTIONS",
    "BATCH_SIZE",
    "CHUNK_SIZE",
    "EVALUATION",
    "GROUNDING",
    "IMAGES",
    "IMAGE_SIZE",
    "QUESTIONS_PER_IMAGE",
    "RECORDING",
    "ROLES",
    "Plan",
    "make_plan",
    "steps_within",
]
