"""The weights of an untrusted model folder, compared with its config before anything is allocated.

A config of a few bytes can ask for more memory than there is. The header of a safetensors file says what the weights
really are: names and shapes, and no code.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.files import strict_json

Module = TypeVar("Module", bound=nn.Module)
Shapes = Mapping[str, tuple[int, ...]]
# What libraries raise for configs that do not make sense.
MISFITS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
SHOWN = 200  # characters of a library's message that are shown


def shapes_of(*files: Path) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor, by name. Raises ValueError if a file is not a complete safetensors file."""
    found: dict[str, tuple[int, ...]] = {}
    for file in files:
        try:
            with safe_open(file, "pt") as opened:
                found |= {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
        except FileNotFoundError:
            raise ValueError(f"{file} is missing") from None
        except SafetensorError as error:
            raise ValueError(f"{file} is not a complete safetensors file ({error}); fetch or make it again") from None
    return found


def sketch(make: Callable[[], Module], shapes: Shapes, *, layers: int, where: Path) -> Module:
    """The model that `make` makes, with shapes but without memory.

    Args:
        shapes: of its weights.
        layers: how many `make` will make; more than there are tensors are refused, because modules take memory, too.
        where: the config that `make` follows; errors name it.

    Raises ValueError if that is not a model.
    """
    if layers > len(shapes):
        raise ValueError(f"{where} describes a model of {layers} layers, its weights are {len(shapes)} tensors")
    try:
        with torch.device("meta"):
            return make()
    except MISFITS as error:
        raise ValueError(f"{where} does not describe a model that can be built: {short(error)}") from None


def check(model: nn.Module, shapes: Shapes, where: Path) -> None:
    """Raises ValueError unless a model (a sketch of it) has exactly these tensors; `where` is its config."""
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    for name in wanted:
        if name not in shapes:
            raise ValueError(
                f"{where} describes a model with {name}, which its weights lack; they belong to another model"
            )
        if wanted[name] != shapes[name]:
            raise ValueError(
                f"{where} describes a model whose {name} has the shape {list(wanted[name])}, its weights have "
                f"{list(shapes[name])}; they belong to another model"
            )
    if strange := sorted(shapes.keys() - wanted.keys()):
        raise ValueError(
            f"{where} describes a model without {strange[0]}, which its weights have; they belong to another model"
        )


def read(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name. Raises ValueError if it is not complete."""
    try:
        return load_file(file)
    except FileNotFoundError:
        raise ValueError(f"{file} is missing") from None
    except SafetensorError as error:
        raise ValueError(f"{file} is not a complete safetensors file ({error}); fetch or make it again") from None


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises ValueError naming the file."""
    try:
        values = strict_json.load(path)
    except FileNotFoundError:
        raise ValueError(f"{path} is missing") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected an object, found {json.dumps(values)[:SHOWN]}")
    return values


def short(error: object) -> str:
    """A library's message as one line of reasonable length."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
