"""The memory of a video that has no end: frames arrive, the most recent are remembered, segments are recalled.

What `TransformerMapper.forward` computes of a whole sequence at once, a `Stream` computes of the same frames in any
pieces, one by one if need be, with the same result; it keeps the frames that fit into memory.max_entries and forgets
the others, so a stream takes as much memory in its third hour as in its third minute.

B rows: streams that run side by side   T frames of a piece   R segments   E width of an embedding
"""

import torch
from torch import Tensor

from pipeline.mapper import TransformerMapper
from pipeline.memory import History, Moments, Remembered


class Stream:
    """Streams of frames, B side by side.

    stream = Stream(captioner.mapper)
    for embedding in embeddings:  # [E]
        if a segment ends with this frame:
            prefix = stream.recall(embedding[None, None], segment_start)
        stream.remember(embedding[None, None])
    """

    def __init__(self, mapper: TransformerMapper) -> None:
        if mapper.memory is None:
            raise ValueError("this captioner has no memory; it sees one frame, and there is nothing to stream")
        self.mapper = mapper
        tokens = mapper.config.clip_tokens + mapper.config.prefix_tokens
        self.capacity = mapper.memory.max_entries // tokens  # frames
        # Room beyond the capacity: a buffer that is full moves what it keeps to its front, once in so many frames.
        self._room = max(1, self.capacity // 4)
        self.frames = 0  # seen since the start
        self._forgotten = 0  # frames that have left the buffers, which start with the next one
        self._buffers: dict[int, History] = {}  # by layer; longer than what is in them
        self._embeddings = torch.empty(0)  # [B, as long, E]

    @torch.no_grad()
    def remember(self, embeddings: Tensor) -> None:
        """Store the next frames [B, T, E]."""
        for piece in embeddings.split(self._room, dim=1):
            self._remember(piece)

    def _remember(self, embeddings: Tensor) -> None:
        count = embeddings.shape[1]
        self._make_room(count)
        at = self.frames - self._forgotten  # where the piece goes

        def keep(number: int, stored: History) -> History:
            buffer = self._buffer(number, stored)
            buffer.keys[:, :, at : at + count] = stored.keys
            buffer.values[:, :, at : at + count] = stored.values
            return self._view(number, at + count)

        self.mapper.remember(embeddings, first=at, keep=keep)
        if not len(self._embeddings):
            self._embeddings = embeddings.new_zeros(len(embeddings), self.capacity + self._room, embeddings.shape[2])
        self._embeddings[:, at : at + count] = embeddings
        self.frames += count

    @torch.no_grad()
    def recall(self, embeddings: Tensor, segment_start: Tensor) -> Tensor:
        """Prefixes of segments that end with the next frame, before it is remembered.

        Args:
            embeddings: [B, 1, E], the next frame.
            segment_start: [B, R] int64, the first frame of each segment, counted from the stream's start.

        Returns:
            As TransformerMapper.forward.
        """
        at = self.frames - self._forgotten
        remembered = None
        if at:
            layers = {number: self._view(number, at) for number in self._buffers}
            remembered = Remembered(layers, self._embeddings[:, :at])
        moments = Moments(torch.full_like(segment_start, at), segment_start - self._forgotten)
        return self.mapper.recall(embeddings.expand(-1, segment_start.shape[1], -1), remembered, moments)

    def clear(self) -> None:
        """Forget everything."""
        self.frames = self._forgotten = 0
        self._buffers = {}
        self._embeddings = torch.empty(0)

    def _view(self, number: int, frames: int) -> History:
        """A layer's first frames in its buffer."""
        buffer = self._buffers[number]
        return History(buffer.keys[:, :, :frames], buffer.values[:, :, :frames])

    def _buffer(self, number: int, like: History) -> History:
        if number not in self._buffers:
            batch, heads, _, tokens, width = like.keys.shape
            shape = (batch, heads, self.capacity + self._room, tokens, width)
            self._buffers[number] = History(like.keys.new_zeros(shape), like.values.new_zeros(shape))
        return self._buffers[number]

    def _make_room(self, count: int) -> None:
        held = self.frames - self._forgotten
        if held + count <= self.capacity + self._room:
            return
        for buffer in self._buffers.values():
            for part in (buffer.keys, buffer.values):
                part[:, :, : self.capacity] = part[:, :, held - self.capacity : held].clone()
        self._embeddings[:, : self.capacity] = self._embeddings[:, held - self.capacity : held].clone()
        self._forgotten += held - self.capacity
