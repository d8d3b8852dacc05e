"""The memory of videos that have no end: frames arrive, the most recent are remembered, segments are recalled.

What `TransformerMapper.forward` computes of a whole sequence at once, a `Stream` computes of the same frames in any
pieces, one by one if need be, with the same result; it keeps the frames that fit into memory.max_entries and forgets
the others, so a stream takes as much memory in its third hour as in its third minute.

B rows: streams that run side by side   T frames of a piece   R segments   E width of an embedding
"""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.mapper import Recalled, TransformerMapper
from pipeline.memory import History, Moments, Remembered
from pipeline.retrieval import ApproximateIndex


class Stream:
    """Streams of frames side by side, each as far along as it likes.

    stream = Stream(captioner.mapper)
    for embedding in embeddings:  # [E]
        if a segment ends with this frame:
            prefix = stream.recall(embedding[None, None], segment_start)[0].prefixes
        stream.remember(embedding[None, None])

    Every call is for all rows, or for the `row` that is named.

    Args:
        index: exact | approximate, see pipeline/retrieval.py.
    """

    def __init__(self, mapper: TransformerMapper, rows: int = 1, index: str = "exact") -> None:
        if mapper.memory is None:
            raise ValueError("this captioner has no memory; it sees one frame, and there is nothing to stream")
        self.mapper = mapper
        self.rows = rows
        self.frames = [0] * rows  # of each row, seen since its start
        self.capacity = mapper.memory.capacity(mapper.config.tokens)  # frames
        # Room beyond the capacity: a row that is full moves what it keeps to its front, once in so many frames.
        self._room = max(1, self.capacity // 4)
        self._forgotten = [0] * rows  # frames that have left a row's buffers, which start with the next one
        config, like, held = mapper.config, mapper.constants.detach(), self.capacity + self._room
        shape = (rows, config.heads, held, config.tokens, config.width // config.heads)
        self._buffers = {layer: History(like.new_zeros(shape), like.new_zeros(shape)) for layer in mapper.memory.layers}
        self._embeddings = like.new_zeros(rows, held, config.embedding_width)
        self._indices = {layer: [ApproximateIndex() for _ in range(rows)] for layer in mapper.memory.layers}
        self._exact = index == "exact"

    @torch.no_grad()
    def remember(self, embeddings: Tensor, row: int | None = None) -> None:
        """Store the next frames, [B, T, E] or of one row [1, T, E]."""
        for rows, of_rows in self._apart(row, embeddings):
            at_once = self.mapper.frames_at_once(of_rows.device) // len(of_rows)
            size = max(1, min(self._room, at_once))
            for piece in of_rows.split(size, dim=1) if of_rows.shape[1] else ():
                self._remember(rows, piece)

    @torch.no_grad()
    def recall(self, embeddings: Tensor, segment_start: Tensor, row: int | None = None) -> list[Recalled]:
        """What the next frame makes of segments that end with it, before it is remembered.

        Args:
            embeddings: [B, 1, E], the next frame.
            segment_start: [B, R] int64, the first frame of each segment, counted from the row's start.

        Returns:
            Of each row, as TransformerMapper.recalled for a sequence of its own.
        """
        recalled = []
        for rows, of_rows, start in self._apart(row, embeddings, segment_start):
            at = self._at(rows)
            remembered = None
            if frames := int(at.max()):
                layers = {number: self._held(number, rows, frames) for number in self._buffers}
                remembered = Remembered(layers, self._embeddings[rows, :frames])
            forgotten = torch.tensor(self._forgotten[rows], device=start.device)[:, None]
            moments = Moments(at.to(start.device).expand_as(start), start - forgotten)
            found = self.mapper.recall(of_rows.expand(-1, start.shape[1], -1), remembered, moments)
            for i, first in enumerate(self._forgotten[rows]):
                attended = {number: paid[i : i + 1] for number, paid in found.attended.items()}
                recalled.append(Recalled(found.prefixes[i : i + 1], attended, first))
        return recalled

    def clear(self, row: int | None = None) -> None:
        """Forget everything."""
        for one in range(self.rows) if row is None else [row]:
            self.frames[one] = self._forgotten[one] = 0
            for indices in self._indices.values():
                indices[one].clear()

    def save(self, path: Path) -> None:
        """Write what is remembered to a safetensors file."""
        state = {}
        for row in range(self.rows):
            held = self.frames[row] - self._forgotten[row]
            state[f"{row}.frames"] = torch.tensor(self.frames[row])
            state[f"{row}.embeddings"] = self._embeddings[row, :held].contiguous()
            for number, buffer in self._buffers.items():
                state[f"{row}.layer{number}.keys"] = buffer.keys[row, :, :held].contiguous()
                state[f"{row}.layer{number}.values"] = buffer.values[row, :, :held].contiguous()
        save_file(state, path)

    def load(self, path: Path) -> None:
        """Go on from what `save` wrote, of as many rows and the same mapper.

        An approximate index is made anew from the keys: its lists may be cut otherwise than those it had.

        Raises ValueError if the file is of another stream.
        """
        state = load_file(path)
        for row in range(self.rows):
            self.clear(row)
            try:
                held = state[f"{row}.embeddings"].shape[0]
                self._embeddings[row, :held] = state.pop(f"{row}.embeddings")
                for number, buffer in self._buffers.items():
                    buffer.keys[row, :, :held] = state.pop(f"{row}.layer{number}.keys")
                    buffer.values[row, :, :held] = state.pop(f"{row}.layer{number}.values")
                self.frames[row] = int(state.pop(f"{row}.frames"))
            except (KeyError, RuntimeError) as error:
                self.clear()
                raise ValueError(f"{path} is the memory of another mapper or of fewer rows: {error}") from None
            self._forgotten[row] = self.frames[row] - held
            for number in self._buffers:
                self._follow(number, row, held, held)
        if state:
            self.clear()
            raise ValueError(f"{path} is the memory of another mapper or of more rows: it has {sorted(state)} besides")

    def _apart(self, row: int | None, *tensors: Tensor) -> list[tuple]:
        """The rows of a call, as slices, each with its part of the tensors: all at once where that can be."""
        if row is not None:
            return [(slice(row, row + 1), *tensors)]
        if self._exact:
            return [(slice(0, self.rows), *tensors)]
        # An approximate index is of one row.
        return [(slice(r, r + 1), *(tensor[r : r + 1] for tensor in tensors)) for r in range(self.rows)]

    def _at(self, rows: slice) -> Tensor:
        """Frames that rows hold, [B, 1]."""
        held = [seen - gone for seen, gone in zip(self.frames[rows], self._forgotten[rows], strict=True)]
        return torch.tensor(held)[:, None]

    def _remember(self, rows: slice, embeddings: Tensor) -> None:
        count = embeddings.shape[1]
        for row in range(self.rows)[rows]:
            self._make_room(row, count)
        at = self._at(rows)
        # Where the piece goes in each row.
        places = [
            (row, slice(begin, begin + count)) for row, begin in zip(range(self.rows)[rows], at[:, 0], strict=True)
        ]

        def keep(number: int, stored: History) -> History:
            buffer = self._buffers[number]
            for (row, place), keys, values in zip(places, stored.keys, stored.values, strict=True):
                buffer.keys[row, :, place], buffer.values[row, :, place] = keys, values
                self._follow(number, row, int(place.stop), count)
            return self._held(number, rows, int(at.max()) + count)

        self.mapper.remember_more(embeddings, at.to(embeddings.device), keep)
        for (row, place), of_row in zip(places, embeddings, strict=True):
            self._embeddings[row, place] = of_row
            self.frames[row] += count

    def _held(self, number: int, rows: slice, frames: int) -> History:
        """The first frames in a layer's buffer; where a row holds fewer, what is behind is in nobody's window."""
        buffer = self._buffers[number]
        index = None if self._exact else self._indices[number][rows.start]
        return History(buffer.keys[rows, :, :frames], buffer.values[rows, :, :frames], index)

    def _follow(self, number: int, row: int, held: int, new: int) -> None:
        """Tell a row's index that its buffer holds so many frames, the last of which are new."""
        if not self._exact:
            self._indices[number][row].follow(self._buffers[number].keys[row, :, :held], new)

    def _make_room(self, row: int, count: int) -> None:
        held = self.frames[row] - self._forgotten[row]
        if held + count <= self.capacity + self._room:
            return
        kept = slice(held - self.capacity, held)
        for number, buffer in self._buffers.items():
            for part in (buffer.keys, buffer.values):
                part[row, :, : self.capacity] = part[row, :, kept].clone()
            self._indices[number][row].clear()
        self._embeddings[row, : self.capacity] = self._embeddings[row, kept].clone()
        self._forgotten[row] += held - self.capacity


def stream_segments(mapper: TransformerMapper, embeddings: Tensor, moments: Moments, *, index: str) -> list[Recalled]:
    """What `mapper.recalled` gives of one sequence, with no more in memory at once than a stream holds.

    Args:
        embeddings: [1, T, E].
        moments: [1, R] each.

    Returns:
        Of each of the R segments, as if it were alone.
    """
    stream = Stream(mapper, index=index)
    recalled: dict[int, Recalled] = {}
    ends, starts = moments.frame[0].tolist(), moments.segment_start[0]
    for segment in sorted(range(len(ends)), key=ends.__getitem__):
        end = ends[segment]
        stream.remember(embeddings[:, stream.frames[0] : end])
        (recalled[segment],) = stream.recall(embeddings[:, end : end + 1], starts[None, segment : segment + 1])
    return [recalled[segment] for segment in range(len(ends))]
