"""Shared by the report and the app: one file per page, small pictures, and what the memory retrieved."""

import base64
import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.dataset.segments import frames_of_segment
from pipeline.scoring.caption_table import Retrieved

STRIP_FRAMES = 8  # pictures shown per segment, including its first and last frame
MOMENTS = 6  # moments shown of what the memory retrieved
MIN_WEIGHT = 0.002  # share of the attention; smaller moments are not shown
MOMENT_GAP = 3  # frames this near to each other are one moment
THUMBNAIL_PX = 112  # its longer side


def assemble(folder: Path, title: str, content: Any, *, sources: str = "") -> str:
    """The HTML of a page: page.html and page.js of `folder` in shell.html, with the parts that both pages share.

    All data goes through the JSON block of `content`, which the scripts turn into text, never into markup.

    Args:
        sources: additions to the Content-Security-Policy, which otherwise allows nothing to be loaded.
    """
    here = Path(__file__).parent
    # Without any "<", no caption can end the JSON block; older scripts read U+2028 as a line end.
    data = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        data = data.replace(character, f"\\u{ord(character):04x}")
    script = "\n".join(path.read_text(encoding="utf-8") for path in (here / "retrieved.js", folder / "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    parts = {
        "/* hash of the script */": f"sha256-{digest}",  # so that no other script in the page runs
        "/* sources */": escape(sources),
        "<!-- title -->": escape(title),
        "/* style */": (here / "style.css").read_text(encoding="utf-8"),
        "<!-- body -->": (folder / "page.html").read_text(encoding="utf-8"),
        '"the content"': data,
        "/* script */": script,
    }
    html, rest = "", (here / "shell.html").read_text(encoding="utf-8")
    for mark, part in parts.items():  # in one pass over the template: a caption may look like a placeholder
        before, rest = rest.split(mark)
        html += before + part
    return html + rest


def strip(start_s: float, end_s: float, fps: float) -> list[int]:
    """Frames that illustrate a segment, evenly spaced."""
    timestamps = [frame / fps for frame in range(int(end_s * fps) + 2)]  # up to and including its end
    own = frames_of_segment(start_s, end_s, timestamps)
    return sorted(set(np.linspace(own[0], own[-1], STRIP_FRAMES).round().astype(int).tolist()))


def moments(retrieved: Iterable[Retrieved]) -> list[dict[str, Any]]:
    """The moments of a video that got most of a segment's attention, in order of time.

    A moment is a group of neighbouring frames: {"frame": the one with the most attention, "weight": the mean over heads
    of the group's attention, "heads": [[layer, head, weight], ...]}.
    """
    frames: dict[int, dict[tuple[int, int], float]] = {}
    for one in retrieved:
        frames.setdefault(one.frame_index, {})[one.layer, one.head] = one.weight
    heads = len({head for of_frame in frames.values() for head in of_frame})
    found: list[dict[str, Any]] = []
    for near in neighbours(sorted(frames)):
        of_heads: Counter[tuple[int, int]] = Counter()
        for frame in near:
            of_heads.update(frames[frame])
        weight = sum(of_heads.values()) / heads
        if weight >= MIN_WEIGHT:
            most = max(near, key=lambda frame: sum(frames[frame].values()))
            rows = [[*head, round(part, 4)] for head, part in sorted(of_heads.items())]
            found.append({"frame": most, "weight": round(weight, 4), "heads": rows})
    found.sort(key=lambda moment: moment["weight"], reverse=True)
    return sorted(found[:MOMENTS], key=lambda moment: moment["frame"])


def neighbours(frames: Sequence[int]) -> list[list[int]]:
    """Sorted frames, split where they are more than MOMENT_GAP apart."""
    runs: list[list[int]] = []
    for frame in frames:
        if not runs or frame - runs[-1][-1] > MOMENT_GAP:
            runs.append([])
        runs[-1].append(frame)
    return runs


def thumbnail(jpeg: bytes) -> str:
    """A small WebP of a picture, base64."""
    return webp(jpeg, THUMBNAIL_PX)


def webp(picture_bytes: bytes, side_px: int) -> str:
    """A picture whose longer side has no more than `side_px`, base64."""
    picture = Image.open(io.BytesIO(picture_bytes)).convert("RGB")
    picture.thumbnail((side_px, side_px))
    small = io.BytesIO()
    picture.save(small, "WEBP", quality=60, method=2)
    return base64.b64encode(small.getvalue()).decode()
