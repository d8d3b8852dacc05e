"""A memory's config for tests: they say what they are about, and the rest is as usual."""

from typing import Any

from pipeline.captioner.memory import MemoryConfig

USUAL: dict[str, Any] = {
    "layers": (2,),
    "k": 4,
    "max_entries": 64_000,
    "gate": "joint",
    "time": "age",
    "scope": "video",
    "gradient": "through",
    "keyframes": 0,
    "other_side_bias": -0.5,
    "likeness_scale": 30.0,
    "side_mark_length": 6.0,
    "write_below": None,
    "usual_keys": None,
    "match_features": False,
    "excess_unit": 5.0,
}


def memory_config(**changes: Any) -> MemoryConfig:
    return MemoryConfig(**{**USUAL, **changes})
