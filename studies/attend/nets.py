"""Video nets, and the output of one of their layers for a window of frames.

B windows   T frames of a window   S side of the net's input, pixels   C channels   t, h, w cells in time and space

Torchvision's nets (r3d_18, mc3_18, r2plus1d_18, s3d, mvit_*, swin3d_*) are built by name, with weights from a file:
nothing is downloaded. The built-in one is a VideoResNet, narrow enough to train on a laptop.
"""

import hashlib
import json
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights, list_models, video
from torchvision.models.video.resnet import BasicBlock, Conv3DNoTemporal, Conv3DSimple, VideoResNet

CONFIG, WEIGHTS = "net.json", "net.safetensors"
KINETICS_MEAN, KINETICS_STD = (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)  # of torchvision's weights


class SmallVideoNet(VideoResNet):
    """A VideoResNet of two narrow layers: [B, 3, T, S, S] to [B, C, T/2, S/8, S/8], and from each cell to classes."""

    def __init__(self, width: int, classes: int) -> None:
        nn.Module.__init__(self)  # VideoResNet's own makes layers of 64 to 512 channels
        self.inplanes = width
        self.stem = nn.Sequential(
            # As much is cut off here as the strides below shift to the left and up: what a cell sees lies around the
            # middle of its own place, 8 (i + 1/2), and not around its corner.
            nn.ConstantPad3d((-2, 5, -2, 5, 0, 0), 0.0),
            nn.Conv3d(3, width, (1, 5, 5), stride=(1, 2, 2), bias=False),
            nn.BatchNorm3d(width),
            nn.ReLU(inplace=True),
        )
        self.layer1 = self._make_layer(BasicBlock, Conv3DNoTemporal, width * 3 // 2, 1, stride=2)
        self.layer2 = self._make_layer(BasicBlock, Conv3DSimple, width * 5 // 2, 1, stride=2)
        self.fc = nn.Linear(self.inplanes, classes)
        nn.init.constant_(self.fc.bias, -3.0)  # most classes are absent

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits of the classes at each time, [B, t, classes]: those of the place where a class is likeliest."""
        cells = self.layer2(self.layer1(self.stem(pixels)))  # [B, C, t, h, w]
        return self.fc(cells.movedim(1, -1)).flatten(2, 3).amax(2)


class _Reached(Exception):
    """The layer that is kept has its output: what comes after it need not be computed."""


class Net:
    """A net of which one layer's output is kept, and nothing after it computed. Threads may share it."""

    def __init__(self, module: nn.Module, layer: str, mean: Sequence[float], std: Sequence[float]) -> None:
        self.module, self.layer = module, layer
        self._scale = 1 / (255 * torch.tensor(std))
        self._offset = -torch.tensor(mean) / torch.tensor(std)
        self._kept = threading.local()
        if layer:
            module.get_submodule(layer).register_forward_hook(self._keep)

    def _keep(self, _module: nn.Module, _inputs: Any, output: Any) -> None:
        self._kept.output = output
        raise _Reached

    @torch.inference_mode()
    def cells(self, pixels: Tensor) -> Tensor:
        """uint8 [B, T, S, S, 3] to [B, t, h, w, C] float32, the layer's output.

        Raises ValueError if the layer's output has no time and space.
        """
        with suppress(_Reached):
            self.module(self.normalised(pixels))
        return _in_space(self._kept.__dict__.pop("output"), self.layer, type(self.module).__name__).float()

    def normalised(self, pixels: Tensor) -> Tensor:
        """uint8 [B, T, S, S, 3] to [B, 3, T, S, S]."""
        scaled = torch.addcmul(self._offset.to(pixels.device), pixels.float(), self._scale.to(pixels.device))
        return scaled.movedim(-1, 1)  # channels last in memory, as convolutions on a CPU are fastest


def _in_space(output: Any, layer: str, name: str) -> Tensor:
    if isinstance(output, tuple) and len(output) == 2:  # MViT's blocks: tokens, the first of the class, and [t, h, w]
        tokens, (t, h, w) = output
        return tokens[:, tokens.shape[1] - t * h * w :].unflatten(1, (t, h, w))
    if not isinstance(output, Tensor) or output.ndim != 5:
        shape = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(
            f"layer {layer!r} of {name} gives {shape}; expected one with time and space, as [B, C, t, h, w]"
        )
    return output if name == "SwinTransformer3d" else output.movedim(1, -1)


def save_builtin(folder: Path, module: SmallVideoNet, config: dict[str, Any]) -> None:
    save_file({name: value.contiguous() for name, value in module.state_dict().items()}, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps({"source": "builtin", **config}, indent=2) + "\n")


def load_net(folder: Path, layer: str) -> Net:
    """The net of `folder` (its net.json names it), for use. Raises ValueError if it has no such layer."""
    config = json.loads((folder / CONFIG).read_text())
    if config["source"] == "builtin":
        module: nn.Module = SmallVideoNet(config["width"], len(config["classes"]))
        module.load_state_dict(load_file(folder / WEIGHTS))
    else:
        module = torchvision_net(config["name"], load_file(folder / WEIGHTS))
    if layer not in dict(module.named_modules()) or not layer:
        top = ", ".join(name for name, _ in module.named_children())
        raise ValueError(f"cells.layer: the net has no layer {layer!r}; it has {top}, and what is inside of these")
    module = module.eval().requires_grad_(False).to(memory_format=torch.channels_last_3d)
    return Net(module, layer, tuple(config["mean"]), tuple(config["std"]))


def digest(folder: Path) -> str:
    """Of everything that the net's cells depend on."""
    files = sorted((folder / CONFIG, folder / WEIGHTS))
    return hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in files)).hexdigest()


def torchvision_net(name: str, state: dict[str, Tensor] | None) -> nn.Module:
    """The net of this name with these weights (None: random). Its head may have any number of classes.

    Raises ValueError for a name that is no video net's, and for another net's weights.
    """
    known = list_models(module=video)
    if name not in known:
        raise ValueError(f"net.name: found {name!r}; expected one of torchvision's video nets: {', '.join(known)}")
    module = get_model(name, weights=None)
    if state is None:
        return module
    own = module.state_dict()
    head = {key for key in own if key.split(".")[0] in ("fc", "head", "classifier")}
    missing = own.keys() - head - state.keys()
    foreign = [key for key in state if key not in own]
    other = [key for key in own.keys() & state.keys() - head if own[key].shape != state[key].shape]
    if missing or foreign or other:
        first = min(missing or foreign or other)
        raise ValueError(
            f"net.weights: not those of {name}: {len(missing)} of its tensors are missing, {len(foreign)} are foreign, "
            f"{len(other)} have another shape (the first: {first}); expected torchvision's state dict of {name}"
        )
    module.load_state_dict({key: value for key, value in state.items() if key not in head}, strict=False)
    return module


def read_weights(path: Path) -> dict[str, Tensor]:
    """A state dict, from .safetensors or from torch's own format, without running any code of the file's.

    Raises ValueError if it is neither.
    """
    if not path.is_file():
        raise ValueError(f"net.weights: {path}: no such file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of zip files, of pickles, of safetensors: each has its own
        raise ValueError(
            f"net.weights: {path} cannot be read as weights ({str(error).splitlines()[0][:100]})"
        ) from None
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"net.weights: {path} holds no state dict (names and tensors)")
    return state


def save_torchvision(folder: Path, name: str, weights: Path | None) -> None:
    """Raises ValueError, as `torchvision_net`."""
    module = torchvision_net(name, read_weights(weights) if weights else None)
    mean, std = KINETICS_MEAN, KINETICS_STD
    if weights:
        preset: Any = get_model_weights(name).DEFAULT.transforms()
        mean, std = tuple(preset.mean), tuple(preset.std)
    save_file({key: value.contiguous() for key, value in module.state_dict().items()}, folder / WEIGHTS)
    config = {"source": "torchvision", "name": name, "mean": mean, "std": std}
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")


@dataclass(frozen=True)
class Letterbox:
    """How a picture lies in the net's square input: scaled, and in the middle between two bars."""

    scale: float  # pixels of the input for one of the picture
    left: float
    top: float

    @classmethod
    def of(cls, width: int, height: int, side: int) -> "Letterbox":
        scale = side / max(width, height)
        return cls(scale, (side - round(width * scale)) / 2, (side - round(height * scale)) / 2)


def picture(jpeg: bytes, side: int) -> NDArray[np.uint8]:
    """The whole picture in a square, uint8 [S, S, 3] RGB, grey bars where it is not square. Raises ValueError."""
    found = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    if found is None:
        raise ValueError(f"{len(jpeg)} bytes that are no JPEG")
    height, width = found.shape[:2]
    scale = side / max(width, height)
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    small = cv2.resize(found, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    square = np.full((side, side, 3), 110, np.uint8)  # about the mean of the nets' weights: no edge to speak of
    left, top = (side - size[0]) // 2, (side - size[1]) // 2
    square[top : top + size[1], left : left + size[0]] = small[..., ::-1]
    return square


@dataclass(frozen=True)
class Windows:
    """How a video of so many frames is cut for the net, and which of a window's cells are kept."""

    frames: int
    window: int
    stride: int

    @property
    def starts(self) -> range:
        return range(
            0, max(self.frames - self.window + self.stride - 1, 0) // self.stride * self.stride + 1, self.stride
        )

    def kept(self, t: int) -> tuple[list[tuple[int, int]], list[float]]:
        """(window, cell in time) of those kept of `t` a window, and the frame at which each begins.

        Of windows that overlap, a moment's cell is that of the window in whose middle it lies nearer. Cells that begin
        after the last frame saw nothing but its repetition.
        """
        length = self.window / t
        found, begins = [], []
        for number, start in enumerate(self.starts):
            lower = start + (self.window - self.stride) / 2 if number else 0.0
            upper = lower + self.stride if number else (self.window + self.stride) / 2
            for i in range(t):
                begin = start + i * length
                last = number == len(self.starts) - 1
                if lower <= begin + length / 2 < (self.frames + length if last else upper) and begin < self.frames:
                    found.append((number, i))
                    begins.append(begin)
        return found, begins


def video_cells(
    net: Net, jpegs: list[bytes], windows: Windows, *, side: int, batch_size: int, device: torch.device
) -> tuple[Tensor, list[float]]:
    """A video's cells, float32 [cells in time, h, w, C], and the frame at which each begins.

    The last window is filled up with the last frame. Raises ValueError for what is no JPEG.
    """
    pixels = torch.from_numpy(np.stack([picture(jpeg, side) for jpeg in jpegs]))  # [frames, S, S, 3]
    frames = (torch.tensor(windows.starts)[:, None] + torch.arange(windows.window)).clamp(max=len(jpegs) - 1)
    outputs = [net.cells(pixels[some].to(device)).cpu() for some in frames.split(batch_size)]
    every = torch.cat(outputs)  # [windows, t, h, w, C]
    chosen, begins = windows.kept(every.shape[1])
    return every[[number for number, _ in chosen], [i for _, i in chosen]], begins


def aligned(cells: Tensor, align: list[int | None]) -> Tensor:
    """[T, h, w, C] averaged to the numbers of `align`; None leaves a dimension as it is."""
    t, h, w = (expected or found for expected, found in zip(align, cells.shape[:3], strict=True))
    if (t, h, w) == cells.shape[:3]:
        return cells
    return nn.functional.adaptive_avg_pool3d(cells.movedim(-1, 0), (t, h, w)).movedim(0, -1)
