"""Pictures to embeddings: the image tower of a CLIP, from a folder in open_clip's own format.

n pictures   S side of the encoder's input, pixels   E embedding width
"""

import hashlib
import json
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
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
from torch import Tensor, nn

CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILE = "open_clip_model.safetensors"
_PRECISION = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}  # open_clip's words

Key = TypeVar("Key")


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

        JPEGs may be an Arrow column; and a long video may come in parts, items with the same key one after the other.

        The embeddings are what open_clip's preprocess and `encode_image` give, not normalised: the length is
        part of what CLIP saw, and whoever wants it gone can divide.

        An embedding depends on its own picture and on `batch_size`, never on the pictures it shares a batch
        with: the last batch is filled up, because a matrix product of fewer rows may add in another order.
        ValueError names the video and the frame that is no JPEG.
        """
        workers = workers or os.cpu_count() or 1
        waiting: deque[tuple[Future[NDArray[np.float16]], list[_Piece[Key]]]] = deque()
        parts: list[NDArray[np.float16]] = []
        # A worker takes a batch from bytes to embedding on one core: no core waits for another, decoding
        # overlaps the forward, and a sum has the same order however many cores there are.
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
                        parts.append(embeddings[at : at + piece.count])
                        at += piece.count
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
            for offset in range(piece.count):
                try:
                    pixels[frame] = self.preprocess.pixels(jpegs[frame])
                except OSError as error:
                    where = f"{piece.key}, frame {piece.start + offset}"
                    raise ValueError(f"{where}: {len(jpegs[frame])} bytes that are no JPEG ({error})") from error
                frame += 1
        with torch.inference_mode():
            inputs = self.preprocess.normalised(pixels.to(self.device)).to(self.dtype)  # [batch, 3, S, S]
            embeddings = self.visual(inputs.contiguous(memory_format=torch.channels_last))  # [batch, E]
        return embeddings[:frame].to(torch.float16).cpu().numpy()


class Preprocess:
    """open_clip's preprocess in two halves: bytes to uint8 pixels, and pixels to what the tower reads.

    Args:
        config: open_clip's preprocess_cfg (size, mean, std, interpolation, resize_mode).
    """

    def __init__(self, config: dict[str, Any]) -> None:
        from open_clip.transform import PreprocessCfg, image_transform_v2

        parsed = PreprocessCfg(**config)
        height, width = (parsed.size, parsed.size) if isinstance(parsed.size, int) else parsed.size
        if height != width:
            raise ValueError(f"the encoder wants pictures of {width}x{height}; only square ones are supported")
        self.side = height
        self._interpolation = parsed.interpolation
        self._plain = parsed.resize_mode == "shortest" and parsed.interpolation in ("bicubic", "bilinear")
        self._reference = image_transform_v2(parsed, is_train=False).transforms[:-2]  # all but ToTensor, Normalize
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
        """As `_pillow` but for one level in a few pixels of ten thousand, in a quarter of the time."""
        from torchvision.transforms.functional import center_crop

        coded = np.frombuffer(jpeg, np.uint8)
        # Pillow does not turn pictures by their EXIF tag either.
        bgr = cv2.imdecode(coded, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION) if coded.size else None
        if bgr is None:
            raise OSError("OpenCV cannot decode it")
        picture = torch.from_numpy(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)).permute(2, 0, 1)  # [3, height, width]
        height, width = picture.shape[1:]
        short = min(height, width)
        if short != self.side:
            size = (int(self.side * height / short), int(self.side * width / short))
            picture = nn.functional.interpolate(picture[None], size, mode=self._interpolation, antialias=True)[0]
        return center_crop(picture, [self.side, self.side])


def load_encoder(folder: Path, *, device: torch.device, dtype: torch.dtype) -> Encoder:
    """The encoder of a folder, for inference. Its weights are cast once: that beats autocast, which casts each time."""
    import open_clip  # here, because it takes seconds and a stage that finds nothing to do needs none of it

    embedding_width(folder)  # says what is wrong with the folder better than open_clip does
    if not (folder / WEIGHTS_FILE).is_file():
        raise ValueError(f"{folder} has no {WEIGHTS_FILE}; make it with: dvc repro backbones")
    model = open_clip.create_model(f"local-dir:{folder}", precision=_PRECISION[dtype], device=device)
    visual = model.visual.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    return Encoder(visual, Preprocess(visual.preprocess_cfg), embedding_width(folder), device, dtype)


def embedding_width(folder: Path) -> int:
    """E, from the folder's config."""
    path = folder / CONFIG_FILE
    try:
        return json.loads(path.read_text())["model_cfg"]["embed_dim"]
    except FileNotFoundError:
        raise ValueError(f"{path} is missing; make it with: dvc repro backbones") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not open_clip's config ({error!r}); wanted model_cfg.embed_dim in it") from error


def digest(folder: Path) -> str:
    """SHA-256 (hex) of the encoder: config and weights."""
    total = hashlib.sha256()
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        with (folder / name).open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


@dataclass(frozen=True)
class _Piece(Generic[Key]):
    """The part of a video that is in one batch: `count` frames from frame `start` on; a last one has none."""

    key: Key
    start: int
    count: int
    last: bool


def _batches(
    videos: Iterable[tuple[Key, Sequence[bytes] | pa.ChunkedArray]], batch_size: int
) -> Iterator[tuple[list[bytes], list[_Piece[Key]]]]:
    jpegs: list[bytes] = []
    pieces: list[_Piece[Key]] = []
    for key, parts in groupby(videos, key=itemgetter(0)):
        start = 0
        for _, part in parts:
            at = 0
            while at < len(part):
                some = part[at : at + batch_size - len(jpegs)]
                jpegs += some.to_pylist() if isinstance(some, pa.ChunkedArray) else some
                pieces.append(_Piece(key, start, len(some), False))
                start, at = start + len(some), at + len(some)
                if len(jpegs) == batch_size:
                    yield jpegs, pieces
                    jpegs, pieces = [], []
        pieces.append(_Piece(key, start, 0, True))
    if pieces:
        yield jpegs, pieces


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """torch's thread count is the process's, whoever sets it: put it back afterwards."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)
