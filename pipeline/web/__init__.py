"""What the report and the app share: one file per page, small pictures, what the memory gave moment by moment."""

import base64
import io
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.annotations import frames_of_segment
from pipeline.captions import Retrieved

STRIP_FRAMES = 8  # shown of a segment, its first and its last among them
MOMENTS = 6  # shown of what the memory gave
LEAST_WEIGHT = 0.002  # of the attention: a moment that got less is not shown
MOMENT_GAP = 3  # frames: what is so near to each other is one moment
THUMBNAIL_PX = 112  # its longer side


def assemble(folder: Path, title: str, content: Any, *, sources: str = "") -> str:
    """The HTML of a page: page.html and page.js of `folder` in shell.html, with what both pages have.

    Everything that comes from data goes through the JSON block of `content`, of which the scripts make text, never
    markup.

    Args:
        sources: more of the Content-Security-Policy than that nothing comes from anywhere.
    """
    here = Path(__file__).parent
    # JSON knows no "<", so no caption can end the block it stands in; U+2028 is a line end to older scripts.
    told = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        told = told.replace(character, f"\\u{ord(character):04x}")
    parts = {
        "/* sources */": escape(sources),
        "<!-- title -->": escape(title),
        "/* style */": (here / "style.css").read_text(encoding="utf-8"),
        "<!-- body -->": (folder / "page.html").read_text(encoding="utf-8"),
        '"the content"': told,
        "/* script */": "\n".join(path.read_text(encoding="utf-8") for path in (here / "film.js", folder / "page.js")),
    }
    html, rest = "", (here / "shell.html").read_text(encoding="utf-8")
    for mark, part in parts.items():  # never looking into what was put in: a caption may look like a mark
        before, rest = rest.split(mark)
        html += before + part
    return html + rest


def strip(start_s: float, end_s: float, fps: float) -> list[int]:
    """Frames that show a segment, evenly over those that the captioner has of it."""
    timestamps = [frame / fps for frame in range(int(end_s * fps) + 2)]  # up to its end, and one more
    own = frames_of_segment(start_s, end_s, timestamps)
    return sorted(set(np.linspace(own[0], own[-1], STRIP_FRAMES).round().astype(int).tolist()))


def moments(retrieved: Iterable[Retrieved]) -> list[dict[str, Any]]:
    """The moments of a video that got most of a segment's attention, in the order of time.

    A moment is frames that are near to each other: {"frame": the one that got most, "weight": the mean over heads of
    what all of them got, "heads": [[layer, head, weight], ...]}.
    """
    frames: dict[int, dict[tuple[int, int], float]] = {}
    for one in retrieved:
        frames.setdefault(one.frame_index, {})[one.layer, one.head] = one.weight
    heads = len({head for of_frame in frames.values() for head in of_frame})
    found: list[dict[str, Any]] = []
    for near in _runs(sorted(frames)):
        of_heads: Counter[tuple[int, int]] = Counter()
        for frame in near:
            of_heads.update(frames[frame])
        weight = sum(of_heads.values()) / heads
        if weight >= LEAST_WEIGHT:
            most = max(near, key=lambda frame: sum(frames[frame].values()))
            rows = [[*head, round(part, 4)] for head, part in sorted(of_heads.items())]
            found.append({"frame": most, "weight": round(weight, 4), "heads": rows})
    found.sort(key=lambda moment: moment["weight"], reverse=True)
    return sorted(found[:MOMENTS], key=lambda moment: moment["frame"])


def _runs(frames: Sequence[int]) -> list[list[int]]:
    """Sorted frames, parted where more than MOMENT_GAP lie between."""
    runs: list[list[int]] = []
    for frame in frames:
        if not runs or frame - runs[-1][-1] > MOMENT_GAP:
            runs.append([])
        runs[-1].append(frame)
    return runs


def thumbnail(jpeg: bytes) -> str:
    """A small WebP of it, base64."""
    picture = Image.open(io.BytesIO(jpeg)).convert("RGB")
    picture.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    small = io.BytesIO()
    picture.save(small, "WEBP", quality=60, method=2)
    return base64.b64encode(small.getvalue()).decode()
