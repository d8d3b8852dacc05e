"""Finds where a video changes: segments for videos without annotations."""

from collections.abc import Iterable
from typing import Any

import cv2
import numpy as np
from scenedetect.common import FrameTimecode
from scenedetect.detectors import AdaptiveDetector

# A change counts if it is so many times as large as those around it, and at least this large (mean of hue, saturation
# and value, 0 to 255). PySceneDetect's own 15 finds the cuts between shots; 4 also finds things that come and go.
TIMES_AROUND = 3.0
MIN_CHANGE = 4.0


class Cuts:
    """Finds cuts in frames as they arrive.

    Args:
        fps: of the frames.
        least_s: minimal distance of cuts.
    """

    def __init__(self, fps: float, least_s: float) -> None:
        self.fps = float(fps)  # PySceneDetect refuses integers
        self._frames = 0
        self._last = b""
        self._picture: Any = None  # of it, [height, width, 3] uint8
        self._detector = AdaptiveDetector(
            adaptive_threshold=TIMES_AROUND, min_scene_len=max(1, round(least_s * fps)), min_content_val=MIN_CHANGE
        )

    def add(self, jpeg: bytes) -> list[int]:
        """The frames, none or one, found to be the first after a cut; the detector looks some frames ahead."""
        if jpeg != self._last:  # a repeated picture is decoded once
            picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
            if picture is None:
                raise ValueError(f"frame {self._frames} is not a picture")
            self._last, self._picture = jpeg, picture
        found = self._detector.process_frame(FrameTimecode(self._frames, self.fps), self._picture)
        self._frames += 1
        return [cut.frame_num for cut in found]


def find_segments(jpegs: Iterable[bytes], *, fps: float, least_s: float) -> list[tuple[float, float]]:
    """(start_s, end_s) of the segments between cuts, which together cover all frames."""
    cuts, starts, count = Cuts(fps, least_s), [0], 0
    for jpeg in jpegs:
        starts += cuts.add(jpeg)
        count += 1
    if len(starts) > 1 and count - starts[-1] < least_s * fps:  # the rest is too short for a segment
        starts.pop()
    ends = [*starts[1:], count]
    return [(start / fps, end / fps) for start, end in zip(starts, ends, strict=True)]
