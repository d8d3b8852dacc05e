"""The memory for videos without end: frames arrive, the most recent are remembered, segments are recalled.

`TransformerMapper.forward` processes a whole sequence at once. A `Stream` processes the same frames in pieces of any
size, even one by one, with the same result. It keeps the frames that fit into memory.max_entries and forgets the
others, so a stream takes as much memory in its third hour as in its third minute. With memory.write_below it keeps the
most recent frames and, of older ones, those that were written.

B rows: streams side by side   T frames of a piece   R segments   E width of an embedding
"""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.captioner.mapper import Recalled, TransformerMapper
from pipeline.captioner.memory import History, Moments, Remembered, novel
from pipeline.files.aside import aside


class Stream:
    """Streams of frames side by side, each at its own position.

    stream = Stream(captioner.mapper)
    for embedding in embeddings:  # [E]
        if a segment ends with this frame:
            prefix = stream.recall(embedding[None, None], segment_start)[0].prefixes
        stream.remember(embedding[None, None])

    Every call is for all rows, or only for `row`.
    """

    def __init__(self, mapper: TransformerMapper, rows: int = 1) -> None:
        if mapper.memory is None:
            raise ValueError("this captioner has no memory; it sees one frame, and there is nothing to stream")
        self.mapper = mapper
        self.rows = rows
        self.frames = [0] * rows  # frames of each row since its start
        self.capacity = mapper.memory.capacity(mapper.config.tokens)  # frames
        # Extra room: a full row moves what it keeps to its front, once in so many frames.
        self._room = max(1, self.capacity // 4)
        self._below = mapper.memory.write_below
        self._most = self.capacity * (1 if self._below is None else 2)  # kept: as many recent frames as written ones
        self._held = [0] * rows  # frames in a row's buffers
        config, like, held = mapper.config, mapper.constants.detach(), self._most + self._room
        shape = (rows, config.heads, held, config.tokens, config.width // config.heads)
        self._buffers = {layer: History(like.new_zeros(shape), like.new_zeros(shape)) for layer in mapper.memory.layers}
        self._embeddings = like.new_zeros(rows, held, config.embedding_width)
        self._places = torch.zeros(rows, held, dtype=torch.int64)  # their numbers in the row, ascending
        self._written = torch.zeros(rows, held, dtype=torch.bool)

    @torch.no_grad()
    def remember(self, embeddings: Tensor, row: int | None = None) -> None:
        """Store the next frames, [B, T, E], or [1, T, E] of one row."""
        at_once = self.mapper.frames_at_once(embeddings.device) // len(embeddings)
        size = max(1, min(self._room, at_once))
        for piece in embeddings.split(size, dim=1) if embeddings.shape[1] else ():
            self._remember(self._rows(row), piece)

    @torch.no_grad()
    def recall(self, embeddings: Tensor, segment_start: Tensor, row: int | None = None) -> list[Recalled]:
        """Recall segments that end with the next frame, before it is remembered.

        Args:
            embeddings: [B, 1, E], the next frame.
            segment_start: [B, R] int64, the first frame of each segment, counted from the row's start.

        Returns:
            For each row, as TransformerMapper.recalled for a sequence of its own.
        """
        rows = self._rows(row)
        at = self._at(rows)
        remembered = None
        if frames := int(at.max()):
            layers = {number: self._history(number, rows, frames) for number in self._buffers}
            remembered = Remembered(layers, self._embeddings[rows, :frames])
        each = zip(range(self.rows)[rows], segment_start.cpu(), strict=True)
        starts = torch.stack([self._place_of(one, of_row) for one, of_row in each])
        device = segment_start.device
        moments = Moments(at.to(device).expand_as(segment_start), starts.to(device))
        found = self.mapper.recall(embeddings.expand(-1, segment_start.shape[1], -1), remembered, moments)
        recalled = []
        for i, one in enumerate(range(self.rows)[rows]):
            # Only this row's frames: others may hold more.
            held = self._held[one]
            attended = {number: paid[i : i + 1, ..., :held] for number, paid in found.attended.items()}
            recalled.append(Recalled(found.prefixes[i : i + 1], attended, self._places[one, :held].clone()))
        return recalled

    def clear(self, row: int | None = None) -> None:
        """Forget everything."""
        for one in range(self.rows) if row is None else [row]:
            self.frames[one] = self._held[one] = 0

    def save(self, path: Path) -> None:
        """Write what is remembered to a safetensors file."""
        state = {}
        for row in range(self.rows):
            held = self._held[row]
            state[f"{row}.frames"] = torch.tensor(self.frames[row])
            state[f"{row}.places"] = self._places[row, :held].contiguous()
            state[f"{row}.written"] = self._written[row, :held].contiguous()
            state[f"{row}.embeddings"] = self._embeddings[row, :held].contiguous()
            for number, buffer in self._buffers.items():
                state[f"{row}.layer{number}.keys"] = buffer.keys[row, :, :held].contiguous()
                state[f"{row}.layer{number}.values"] = buffer.values[row, :, :held].contiguous()
        with aside(path) as written:
            save_file(state, written)

    def load(self, path: Path) -> None:
        """Continue from what `save` wrote, with the same mapper and as many rows.

        Raises ValueError if the file is of another stream.
        """
        state = load_file(path)
        for row in range(self.rows):
            self.clear(row)
            try:
                held = state[f"{row}.embeddings"].shape[0]
                self._embeddings[row, :held] = state.pop(f"{row}.embeddings")
                self._places[row, :held] = state.pop(f"{row}.places")
                self._written[row, :held] = state.pop(f"{row}.written")
                for number, buffer in self._buffers.items():
                    buffer.keys[row, :, :held] = state.pop(f"{row}.layer{number}.keys")
                    buffer.values[row, :, :held] = state.pop(f"{row}.layer{number}.values")
                self.frames[row] = int(state.pop(f"{row}.frames"))
            except (KeyError, RuntimeError) as error:
                self.clear()
                raise ValueError(f"{path} was saved by another mapper, or with fewer rows: {error}") from None
            self._held[row] = held
        if state:
            self.clear()
            raise ValueError(f"{path} was saved by another mapper, or with more rows: unexpected {sorted(state)}")

    def _rows(self, row: int | None) -> slice:
        """Those of a call: the one that is named, or all."""
        return slice(0, self.rows) if row is None else slice(row, row + 1)

    def _at(self, rows: slice) -> Tensor:
        """How many frames each row holds, [B, 1]."""
        return torch.tensor(self._held[rows])[:, None]

    def _place_of(self, row: int, frame: Tensor) -> Tensor:
        """The place in a row's buffers of its first frame not before `frame`, int64 of any shape."""
        return torch.searchsorted(self._places[row, : self._held[row]], frame)

    def _remember(self, rows: slice, embeddings: Tensor) -> None:
        count = embeddings.shape[1]
        for row in range(self.rows)[rows]:
            self._make_room(row, count)
        at = self._at(rows)
        # The places of the piece in each row.
        places = [
            (row, slice(begin, begin + count))
            for row, begin in zip(range(self.rows)[rows], at[:, 0].tolist(), strict=True)
        ]

        def keep(number: int, stored: History) -> History:
            buffer = self._buffers[number]
            for (row, place), keys, values in zip(places, stored.keys, stored.values, strict=True):
                buffer.keys[row, :, place], buffer.values[row, :, place] = keys, values
            return self._history(number, rows, int(at.max()) + count)

        self.mapper.remember_more(embeddings, at.to(embeddings.device), keep)
        for (row, place), of_row in zip(places, embeddings, strict=True):
            if self._below is not None:
                written = self._written[row, : place.start].nonzero()
                last = self._embeddings[row, written[-1, 0]] if len(written) else None
                self._written[row, place] = novel(of_row, self._below, last).cpu()
            self._embeddings[row, place] = of_row
            self._places[row, place] = torch.arange(self.frames[row], self.frames[row] + count)
            self.frames[row] += count
            self._held[row] += count

    def _history(self, number: int, rows: slice, frames: int) -> History:
        """The first frames in a layer's buffer; beyond what a row holds, they are in no query's window."""
        buffer = self._buffers[number]
        written = None if self._below is None else self._written[rows, :frames].to(buffer.keys.device)
        return History(buffer.keys[rows, :, :frames], buffer.values[rows, :, :frames], written)

    def _make_room(self, row: int, count: int) -> None:
        held = self._held[row]
        if held + count <= self._most + self._room:
            return
        kept = torch.arange(held) >= held - self.capacity
        if self._below is not None:  # and the last of all that were written
            written = self._written[row, :held]
            kept |= written & (written.sum() - written.cumsum(0) < self.capacity)
        places = kept.nonzero()[:, 0]
        self._held[row] = new = len(places)
        for part in (self._embeddings, self._places, self._written):
            part[row, :new] = part[row, places.to(part.device)]
        places = places.to(self._embeddings.device)
        for buffer in self._buffers.values():
            for part in (buffer.keys, buffer.values):
                part[row, :, :new] = part[row][:, places]


def stream_segments(mapper: TransformerMapper, embeddings: Tensor, moments: Moments) -> list[Recalled]:
    """`mapper.recalled` for one sequence, with no more in memory at once than a stream holds.

    Args:
        embeddings: [1, T, E].
        moments: [1, R] each.

    Returns:
        For each of the R segments, as if it were alone.
    """
    stream = Stream(mapper)
    recalled: dict[int, Recalled] = {}
    ends, starts = moments.frame[0].tolist(), moments.segment_start[0]
    for segment in sorted(range(len(ends)), key=ends.__getitem__):
        end = ends[segment]
        stream.remember(embeddings[:, stream.frames[0] : end])
        (recalled[segment],) = stream.recall(embeddings[:, end : end + 1], starts[None, segment : segment + 1])
    return [recalled[segment] for segment in range(len(ends))]
