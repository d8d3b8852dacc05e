"""studies/ablation/params.yaml, checked: which variants, with which seeds, and what each is in full."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from pipeline.params import PARAMS_FILE, Count, Params, Section, Split, load_params, load_study_params

FILE = Path("studies/ablation/params.yaml")
OUT = Path("studies/ablation/out")  # a folder for each variant, in it one for each seed
PRETRAINED = Path("studies/ablation/models")  # a folder for each seed: the mapper that its trainings begin with
CHOICE: Split = "val"  # split on which the best baseline is chosen; also the folder of a run with what it scored there
READ = ("memory", "baseline", "lora", "finetune", "caption", "evaluate")  # sections that the variants' stages read
# Every variant that they concern says these itself: studies/ablation/dvc.yaml does not watch them in params.yaml.
SWITCH, BASELINE = "memory.enabled", ("baseline.frames", "baseline.count")

# In a variant, and no change of params.yaml:
SEEDS = "seeds"  # with how many of the seeds it is trained, the first so many
SPARSE = "sparse"  # its memory may look at so many evenly spaced frames only

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]  # of a folder and of a DVC stage


class Ablation(Section):
    seeds: Annotated[list[Count], Field(min_length=1)]
    default: Name
    variants: dict[Name, dict[str, Any]]

    @property
    def baselines(self) -> list[str]:
        """The variants without memory."""
        return [name for name, changes in self.variants.items() if changes[SWITCH] is False]

    def changes(self, variant: str) -> dict[str, Any]:
        """What the variant changes of params.yaml."""
        return {key: value for key, value in self.variants[variant].items() if key not in (SEEDS, SPARSE)}

    def seeds_of(self, variant: str) -> list[int]:
        return self.seeds[: self.variants[variant].get(SEEDS)]

    def sparse(self, variant: str) -> int | None:
        return self.variants[variant].get(SPARSE)


def load_ablation(path: Path = FILE) -> Ablation:
    """Read and check the file. Raises ValueError that names the key and what is wrong with it."""
    ablation = load_study_params(path, Ablation)
    if len(set(ablation.seeds)) < len(ablation.seeds):
        raise ValueError(f"{path}: seeds: found {ablation.seeds}, expected each once")
    for name, own in ablation.variants.items():
        changes, count = ablation.changes(name), own.get(SEEDS, len(ablation.seeds))
        if not (type(count) is int and 0 < count <= len(ablation.seeds)):
            raise ValueError(
                f"{path}: variants.{name}.{SEEDS}: found {count!r}, expected 1 to {len(ablation.seeds)}, of {SEEDS}"
            )
        sparse = ablation.sparse(name)
        if sparse is not None and not (type(sparse) is int and sparse > 1 and changes.get(SWITCH)):
            raise ValueError(
                f"{path}: variants.{name}.{SPARSE}: found {sparse!r}, expected 2 or more, with {SWITCH}: true"
            )
        for key in changes:
            if key.split(".")[0] not in READ:
                raise ValueError(
                    f"{path}: variants.{name}: {key} changes nothing here; expected one of {', '.join(READ)}"
                )
        for key in (SWITCH, *BASELINE) if changes.get(SWITCH) is False else (SWITCH,):
            if key not in changes:
                raise ValueError(f"{path}: variants.{name}: {key} is missing; this variant has to say it")
    if ablation.default not in ablation.variants:
        raise ValueError(f"{path}: default: found {ablation.default!r}, expected one of {', '.join(ablation.variants)}")
    if not ablation.baselines:
        raise ValueError(f"{path}: variants: no baseline among them (a variant with {SWITCH}: false)")
    return ablation


def params_of(ablation: Ablation, variant: str, seed: int) -> Params:
    """params.yaml as this run of the variant has it. Raises ValueError that names what cannot be."""
    if variant not in ablation.variants:
        raise ValueError(f"{FILE} has no variant {variant!r}; it has {', '.join(ablation.variants)}")
    try:
        params = load_params(PARAMS_FILE, {**ablation.changes(variant), "seed": seed})
    except ValueError as error:
        raise ValueError(f"as {FILE} changes it for variant {variant}, {error}") from None
    if ablation.sparse(variant) is not None and params.memory.distractors:
        raise ValueError(
            f"{FILE}: variants.{variant}.{SPARSE}: these videos are no distractors; set memory.distractors: 0"
        )
    return on_one_device(params)


def on_one_device(params: Params) -> Params:
    """The same params. ValueError if they train on several: each process of that starts the whole program again."""
    for name, section in {"pretrain": params.pretrain, "finetune": params.finetune}.items():
        if section.devices > 1:
            raise ValueError(f"{PARAMS_FILE}: {name}.devices: found {section.devices}, the ablation expects 1")
    return params
