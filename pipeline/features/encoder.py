"""Pictures to embeddings: the image tower of a CLIP, from a folder in open_clip's own format.

n pictures   S side of the encoder's input, pixels   E embedding width
"""

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, Generic, TypeVar

import cv2
import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.files import weights
from pipeline.process.terminal import printable
from pipeline.safety import MAX_ENCODER_PX

CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILE = "open_clip_model.safetensors"
TOWER = "visual."  # prefix of its tensors' names
_PRECISION = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}  # open_clip's names

Key = TypeVar("Key")


_LONGEST = 8  # longer pictures (in widths) are cropped before they are scaled


@dataclass(frozen=True)
class Encoder:
    visual: nn.Module
    preprocess: "Preprocess"
    width: int  # E
    device: torch.device
    dtype: torch.dtype

    def embed(self, jpegs: Sequence[bytes], *, batch_size: int) -> NDArray[np.float16]:
        """[n, E]: see `embed_videos`."""
        return next(self.embed_videos([(None, jpegs)], batch_size=batch_size))[1]

    def embed_videos(
        self,
        videos: Iterable[tuple[Key, Sequence[bytes] | pa.ChunkedArray]],
        *,
        batch_size: int,
        workers: int | None = None,
    ) -> Iterator[tuple[Key, NDArray[np.float16]]]:
        """(key, embeddings [frames, E]) of each (key, JPEGs), in order; batches run across videos.

        JPEGs may be an Arrow column. A long video may come in parts, as consecutive items with the same key. A picture
        that stays the same for several frames goes through the model once.

        The embeddings are those of open_clip's preprocess and `encode_image`, not normalised: the length carries
        information, and dividing by it is easy.

        An embedding depends on its own picture and on `batch_size`, never on the other pictures in its batch: the last
        batch is padded, because a matrix product of fewer rows may add in another order. Raises ValueError naming the
        video and the frame that is not a JPEG.
        """
        workers = workers or os.cpu_count() or 1
        waiting: deque[tuple[Future[NDArray[np.float16]], list[_Piece[Key]]]] = deque()
        parts: list[NDArray[np.float16]] = []
        # Each worker takes a batch from bytes to embeddings on one core: no core waits for another, decoding
        # overlaps the forward pass, and sums have the same order on any number of cores.
        with _one_thread_each(), ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            batches = _batches(videos, batch_size)
            try:
                while True:
                    while len(waiting) < 2 * workers and (batch := next(batches, None)) is not None:
                        jpegs, pieces = batch
                        waiting.append((pool.submit(self._batch, jpegs, pieces, batch_size), pieces))
                    if not waiting:
                        return
                    future, pieces = waiting.popleft()
                    embeddings, at = future.result(), 0
                    for piece in pieces:
                        own = embeddings[at : at + len(piece.repeats)]
                        parts.append(np.repeat(own, piece.repeats, axis=0) if piece.repeats else own)
                        at += len(piece.repeats)
                        if piece.last:
                            yield piece.key, np.concatenate(parts)
                            parts = []
            finally:
                pool.shutdown(cancel_futures=True)

    def _batch(self, jpegs: list[bytes], pieces: "list[_Piece[Any]]", batch_size: int) -> NDArray[np.float16]:
        if not jpegs:
            return np.empty((0, self.width), np.float16)
        side = self.preprocess.side
        pixels = torch.zeros(batch_size, 3, side, side, dtype=torch.uint8)
        frame = 0
        for piece in pieces:
            for offset in range(len(piece.repeats)):
                try:
                    pixels[frame] = self.preprocess.pixels(jpegs[frame])
                except OSError as error:
                    where = f"{piece.key}, frame {piece.start + sum(piece.repeats[:offset])}"
                    raise ValueError(f"{where}: {len(jpegs[frame])} bytes that are not a JPEG ({error})") from error
                frame += 1
        with torch.inference_mode():
            inputs = self.preprocess.normalised(pixels.to(self.device)).to(self.dtype)  # [batch, 3, S, S]
            embeddings = self.visual(inputs.contiguous(memory_format=torch.channels_last))  # [batch, E]
            if isinstance(embeddings, tuple):  # CoCa's tower returns its tokens, too
                embeddings = embeddings[0]
        return embeddings[:frame].to(torch.float16).cpu().numpy()


class Preprocess:
    """open_clip's preprocess in two halves: bytes to uint8 pixels, and pixels to the tower's input.

    Args:
        config: open_clip's preprocess_cfg (size, mean, std, interpolation, resize_mode).
    """

    def __init__(self, config: dict[str, Any]) -> None:
        from open_clip.transform import PreprocessCfg, image_transform_v2

        parsed = PreprocessCfg(**config)
        height, width = (parsed.size, parsed.size) if isinstance(parsed.size, int) else parsed.size
        if height != width:
            raise ValueError(f"the encoder expects pictures of {width}x{height}; only square ones are supported")
        if not 1 <= height <= MAX_ENCODER_PX:
            raise ValueError(
                f"the encoder expects pictures {height} pixels wide; at most {MAX_ENCODER_PX} are supported"
            )
        self.side = height
        self._interpolation = parsed.interpolation
        self._plain = parsed.resize_mode == "shortest" and parsed.interpolation in ("bicubic", "bilinear")
        self._reference = image_transform_v2(parsed, is_train=False).transforms[:-2]  # all but ToTensor and Normalize
        self._mean = torch.tensor(parsed.mean).view(3, 1, 1)
        self._std = torch.tensor(parsed.std).view(3, 1, 1)

    def pixels(self, jpeg: bytes) -> Tensor:
        """uint8 [3, S, S]. OSError if it cannot be decoded."""
        return self._fast(jpeg) if self._plain else self._pillow(jpeg)

    def normalised(self, pixels: Tensor) -> Tensor:
        """float32 [n, 3, S, S] from uint8."""
        return (pixels.float() / 255 - self._mean.to(pixels.device)) / self._std.to(pixels.device)

    def _pillow(self, jpeg: bytes) -> Tensor:
        from PIL import Image

        picture: Any = Image.open(BytesIO(jpeg))
        for step in self._reference:
            picture = step(picture)
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1)

    def _fast(self, jpeg: bytes) -> Tensor:
        """Like `_pillow` in a quarter of the time; a few pixels of ten thousand differ by one level."""
        from torchvision.transforms.functional import center_crop

        coded = np.frombuffer(jpeg, np.uint8)
        # Pillow does not turn pictures by their EXIF tag either.
        bgr = cv2.imdecode(coded, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION) if coded.size else None
        if bgr is None:
            raise OSError("OpenCV cannot decode it")
        height, width = bgr.shape[:2]
        bgr = bgr[slice(*_middle(height, width)), slice(*_middle(width, height))]
        picture = torch.from_numpy(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)).permute(2, 0, 1)  # [3, height, width]
        height, width = picture.shape[1:]
        short = min(height, width)
        if short != self.side:
            size = (int(self.side * height / short), int(self.side * width / short))
            picture = nn.functional.interpolate(picture[None], size, mode=self._interpolation, antialias=True)[0]
        return center_crop(picture, [self.side, self.side])


def _middle(side: int, other: int) -> tuple[int, int]:
    """The start and end of the part of a side that is kept. The ends of a very long picture are cropped away anyway,
    and scaling them first would take gigabytes. (Other pictures stay whole, so that their edges come out as
    published.)"""
    kept = min(side, _LONGEST * other)
    return (side - kept) // 2, (side - kept) // 2 + kept


def schema_of(width: int) -> pa.Schema:
    return pa.schema(
        [
            ("video_id", pa.string()),
            ("frame_index", pa.int32()),
            ("timestamp_s", pa.float64()),
            ("embedding", pa.list_(pa.float16(), width)),
        ]
    )


def to_table(frames: pa.Table, embeddings: NDArray[np.float16], schema: pa.Schema) -> pa.Table:
    """`frames` (a video's rows without the pictures) with their embeddings, [frames, E]."""
    column = pa.FixedSizeListArray.from_arrays(pa.array(embeddings.ravel()), embeddings.shape[1])
    return frames.append_column("embedding", column).cast(schema)


def load_encoder(folder: Path, *, device: torch.device, dtype: torch.dtype) -> Encoder:
    """The encoder of a folder, for inference. Its weights are cast once, which is faster than autocast."""
    path, config, width = folder / CONFIG_FILE, _config(folder), embedding_width(folder)
    if not (folder / WEIGHTS_FILE).is_file():
        raise ValueError(f"{folder} has no {WEIGHTS_FILE}; make it with: dvc repro backbones")
    shapes = weights.shapes_of(folder / WEIGHTS_FILE)
    of_tower = {name.removeprefix(TOWER): shape for name, shape in shapes.items() if name.startswith(TOWER)}
    tower, layers = _tower(config["model_cfg"], dtype, path)
    sketch: Any = weights.sketch(tower, of_tower, layers=layers, where=path)
    weights.check(sketch, of_tower, path)
    try:
        preprocess = Preprocess({**(config.get("preprocess_cfg") or {}), "size": sketch.image_size})
    except weights.MISFITS as error:
        raise ValueError(f"{path} has settings for pictures that do not work: {weights.short(error)}") from None
    visual = tower()
    _set_precision(visual, device, dtype)
    state = weights.read(folder / WEIGHTS_FILE)
    visual.load_state_dict({name.removeprefix(TOWER): value for name, value in state.items() if name.startswith(TOWER)})
    visual = visual.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    return Encoder(visual, preprocess, width, device, dtype)


def save_encoder(folder: Path, model_config: dict[str, Any], model: Any) -> None:
    """Write a CLIP, text tower included, as open_clip reads it back from `local-dir:folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"model_cfg": model_config, "preprocess_cfg": model.visual.preprocess_cfg}
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / WEIGHTS_FILE)


def embedding_width(folder: Path) -> int:
    """E, from the folder's config."""
    width = _config(folder)["model_cfg"].get("embed_dim")
    if not isinstance(width, int) or width < 1:
        raise ValueError(f"{folder / CONFIG_FILE}: model_cfg.embed_dim is {width!r}, expected a number of at least 1")
    return width


def _config(folder: Path) -> dict[str, Any]:
    """The config, which has a model_cfg. Raises ValueError naming the file."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise ValueError(f"{path} is missing; make it with: dvc repro backbones")
    config = weights.read_object(path)
    if not isinstance(config.get("model_cfg"), dict):
        raise ValueError(f"{path} is not open_clip's config: it has no model_cfg")
    return config


def _tower(model_config: dict[str, Any], dtype: torch.dtype, path: Path) -> tuple[Callable[[], nn.Module], int]:
    """A function that makes the image tower of an open_clip model, and how many layers the config says it has.

    Only the image tower: the text tower may need files of the hub (for a RoBERTa, say), and its memory would be wasted
    here. Nothing is fetched, whatever the config names.
    """
    import open_clip  # here, because it takes seconds, and a stage with nothing to do does not need it
    import timm

    vision = model_config.get("vision_cfg")
    if not isinstance(vision, dict):
        raise ValueError(f"{path}: expected an image tower as model_cfg.vision_cfg, found {printable(str(vision))}")
    name, layers = vision.get("timm_model_name"), vision.get("layers", 0)
    if name and not timm.is_model(str(name)):
        raise ValueError(f"{path} names an image tower {printable(str(name))!r}, which timm does not have")
    counts = layers if isinstance(layers, list) else [layers]
    if not all(isinstance(count, int) for count in counts):
        raise ValueError(f"{path}: model_cfg.vision_cfg.layers is {printable(str(layers))}, expected numbers")
    make = partial(
        open_clip.model._build_vision_tower,
        model_config.get("embed_dim"),
        {**vision, "timm_model_pretrained": False},
        model_config.get("quick_gelu", False),
        open_clip.get_cast_dtype(_PRECISION[dtype]),
    )
    return make, 0 if name else sum(counts)


def _set_precision(tower: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Cast like open_clip: matrices take the dtype, norms stay float32."""
    from open_clip.factory import _set_model_device_and_precision
    from open_clip.timm_model import TimmModel

    _set_model_device_and_precision(tower, device, _PRECISION[dtype], isinstance(tower, TimmModel))


def digest(folder: Path) -> str:
    """SHA-256 (hex) of the encoder: config and weights."""
    total = hashlib.sha256()
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        with (folder / name).open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


@dataclass(frozen=True)
class _Piece(Generic[Key]):
    """The part of a video that is in one batch, from frame `start` on; the last one is empty.

    repeats: for each picture in the batch, how many consecutive frames of the video it stands for.
    """

    key: Key
    start: int
    repeats: list[int]
    last: bool


def _batches(
    videos: Iterable[tuple[Key, Sequence[bytes] | pa.ChunkedArray]], batch_size: int
) -> Iterator[tuple[list[bytes], list[_Piece[Key]]]]:
    """A picture that a video shows for several frames is in a batch once."""
    jpegs: list[bytes] = []
    pieces: list[_Piece[Key]] = []
    for key, parts in groupby(videos, key=itemgetter(0)):
        piece, count = None, 0
        for _, part in parts:
            for jpeg in _each(part, batch_size):
                if piece and jpeg == jpegs[-1]:
                    piece.repeats[-1] += 1
                    count += 1
                    continue
                if len(jpegs) == batch_size:
                    yield jpegs, pieces
                    jpegs, pieces, piece = [], [], None
                if piece is None:
                    piece = _Piece(key, count, [], False)
                    pieces.append(piece)
                jpegs.append(jpeg)
                piece.repeats.append(1)
                count += 1
        pieces.append(_Piece(key, count, [], True))
    if pieces:
        yield jpegs, pieces


def _each(part: Sequence[bytes] | pa.ChunkedArray, at_once: int) -> Iterator[bytes]:
    """A few at a time, so that hours of them need not be in memory."""
    for start in range(0, len(part), at_once):
        some = part[start : start + at_once]
        yield from some.to_pylist() if isinstance(some, pa.ChunkedArray) else some


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """torch's thread count is global to the process: restore it afterwards."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)
