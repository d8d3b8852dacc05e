"""A scene's picture at a time, as RGB arrays.

Shapes are drawn four times as large and averaged down, which is better anti-aliasing than OpenCV's own. The results
are cached: a thing that bobs or waits uses few distinct sprites, so most of a video costs one small blend per frame.
"""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.dataset.shapes.grammar import SHAPES
from pipeline.dataset.shapes.scenes import Scene, State, Track

RGB = {
    "red": (232, 48, 52),
    "orange": (255, 140, 26),
    "yellow": (255, 224, 56),
    "green": (44, 176, 74),
    "cyan": (62, 224, 228),
    "blue": (52, 104, 246),
    "purple": (150, 62, 214),
    "pink": (255, 130, 192),
    "white": (250, 250, 248),
}
# (lit corner, dark corner): muted and darker than any shape, so that all nine colours stand out on all of them.
BACKDROPS = (
    ((84, 100, 132), (24, 28, 50)),
    ((56, 104, 112), (18, 30, 48)),
    ((112, 84, 122), (34, 24, 52)),
    ((120, 98, 84), (44, 30, 40)),
    ((84, 108, 88), (22, 36, 44)),
    ((98, 98, 108), (30, 30, 42)),
    ((66, 86, 134), (34, 24, 58)),
    ((126, 86, 92), (44, 26, 48)),
)
STAND_RGB = (206, 196, 180)
STAND_HEIGHT = 0.055  # of the short side
STAND_HALF_WIDTH = 0.19  # wider under large things
STAND_MARGIN_PX = 4  # width of the shadow around it
GLOW = 0.30  # how strongly a shape's colour tints its surroundings
SUPERSAMPLING = 4
SUBPIXELS = 4  # positions and sizes are rounded to this fraction of a pixel, so that sprites repeat
TURN_STEP_DEG = 3.0

Picture = NDArray[np.uint8]  # [H, W, 3] RGB


@dataclass(frozen=True)
class Box:
    """A thing's box in the picture, in pixels, clipped to its sides."""

    object_id: str
    x0: float
    y0: float
    x1: float
    y1: float
    visible: float  # 0..1: the share of its box inside the picture, times its opacity


def picture_size(scene: Scene, size_px: int) -> tuple[int, int]:
    """(width, height) in pixels; even, as H.264's chroma needs."""
    return 2 * round(size_px * scene.width / 2), 2 * round(size_px * scene.height / 2)


def render(scene: Scene, time_s: float, size_px: int) -> Picture:
    """The scene at this time; `size_px` is the dataset's usual side, to which other sizes are relative."""
    width, height = picture_size(scene, size_px)
    picture = _backdrop(scene.backdrop % len(BACKDROPS), scene.light_deg, width, height).copy()
    present = [(track, state) for track in scene.tracks if (state := track.at(time_s))]
    for track, state in present:
        if track.rests:
            _draw_stand(picture, track, state)
    for track, state in present:
        _draw_shape(picture, track.shape, state)
    return picture


def boxes(scene: Scene, time_s: float, size_px: int) -> list[Box]:
    """The boxes of all things in the picture at this time. Stands, shadows and glow are not part of a thing."""
    width, height = picture_size(scene, size_px)
    found = []
    for track in scene.tracks:
        state = track.at(time_s)
        if state is None:
            continue
        left, top, right, bottom = (state.radius * min(width, height) * part for part in _extent(track.shape, state))
        x, y = state.x * width, state.y * height
        x0, y0, x1, y1 = max(x + left, 0.0), max(y + top, 0.0), min(x + right, width), min(y + bottom, height)
        if x0 < x1 and y0 < y1:
            visible = (x1 - x0) * (y1 - y0) / ((right - left) * (bottom - top)) * state.alpha
            found.append(Box(track.object_id, x0, y0, x1, y1, visible))
    return found


def _draw_shape(picture: Picture, shape: str, state: State) -> None:
    height, width = picture.shape[:2]
    radius = round(state.radius * min(width, height) * SUBPIXELS)
    x, y = round(state.x * width * SUBPIXELS), round(state.y * height * SUBPIXELS)
    turn = round(state.turn_deg / TURN_STEP_DEG)
    colour, cover = _sprite(shape, state.colour, radius, turn, x % SUBPIXELS, y % SUBPIXELS)
    side = cover.shape[0]
    _blend(picture, colour, cover, x // SUBPIXELS - side // 2, y // SUBPIXELS - side // 2, state.alpha)


def _draw_stand(picture: Picture, track: Track, state: State) -> None:
    """Where the thing comes to rest, below its position while it is lowered."""
    height, width = picture.shape[:2]
    short = min(width, height)
    foot = track.y[-1][1] * height + _extent(track.shape, state)[3] * state.radius * short
    half = max(STAND_HALF_WIDTH, 1.2 * state.radius)
    colour, cover = _stand_sprite(round(half * short), max(3, round(STAND_HEIGHT * short)))
    left = round(state.x * width) - cover.shape[1] // 2
    _blend(picture, colour, cover, left, round(foot) - STAND_MARGIN_PX, state.alpha)


def _blend(picture: Picture, colour: NDArray[np.float32], cover: NDArray[np.float32], x: int, y: int, a: float) -> None:
    """Lay `colour` [h, w, 3], already weighted by `cover` [h, w, 1], on the picture with its corner at (x, y)."""
    height, width = picture.shape[:2]
    x0, x1, y0, y1 = max(x, 0), min(x + cover.shape[1], width), max(y, 0), min(y + cover.shape[0], height)
    if x0 >= x1 or y0 >= y1:
        return
    inside = np.s_[y0 - y : y1 - y, x0 - x : x1 - x]
    patch = picture[y0:y1, x0:x1]
    if a < 1:
        colour, cover = a * colour, a * cover
    patch[:] = patch * (1 - cover[inside]) + (colour[inside] + 0.5)


@lru_cache(maxsize=1024)
def _sprite(
    shape: str, colour: str, radius: int, turn: int, x: int, y: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Colour weighted by cover, and cover, of a shape at the middle of a patch; all in subpixels."""
    margin_px = 5
    half = -(-radius * 5 // (4 * SUBPIXELS)) + margin_px  # 5/4: the star's points reach further than its radius
    side = 2 * half
    fine = side * SUPERSAMPLING
    centre = half * SUPERSAMPLING + np.array([x, y]) * SUPERSAMPLING / SUBPIXELS
    outline = _outline(shape, turn * TURN_STEP_DEG) * (radius * SUPERSAMPLING / SUBPIXELS)
    mask = np.zeros((fine, fine), np.uint8)
    contours = [outline + centre]
    if shape == "ring":
        contours.append(outline * 0.52 + centre)
    # fillPoly counts in pixel centres: half a pixel back. 16 * 4 bits: fixed-point coordinates.
    cv2.fillPoly(mask, [np.round((c - 0.5) * 16).astype(np.int32) for c in contours], 255, cv2.LINE_8, shift=4)
    flat = cv2.resize(mask, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32)[..., None] / 255
    # Light from above, and a rim that separates it from backgrounds of similar colour.
    shade = np.linspace(1.14, 0.86, side, dtype=np.float32)[:, None, None]
    glow = cv2.GaussianBlur(flat, (0, 0), margin_px / 2)[..., None] * (1 - flat) * GLOW
    lit = np.clip(np.array(RGB[colour], np.float32) * shade, 0, 255)
    cover = (flat + glow).astype(np.float32)
    return lit * cover, cover


@lru_cache(maxsize=32)
def _stand_sprite(half: int, thickness: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A slab with rounded ends, and its soft shadow below."""
    width, height = 2 * half + 2 * STAND_MARGIN_PX, 3 * thickness + 2 * STAND_MARGIN_PX
    fine = np.zeros((height * SUPERSAMPLING, width * SUPERSAMPLING), np.uint8)
    r = thickness * SUPERSAMPLING // 2
    y = STAND_MARGIN_PX * SUPERSAMPLING + r
    x0, x1 = STAND_MARGIN_PX * SUPERSAMPLING + r, (width - STAND_MARGIN_PX) * SUPERSAMPLING - r
    cv2.rectangle(fine, (x0, y - r), (x1, y + r), 255, -1)
    cv2.circle(fine, (x0, y), r, 255, -1)
    cv2.circle(fine, (x1, y), r, 255, -1)
    slab = cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)[..., None] / 255
    dark = np.zeros((height, width), np.float32)
    cv2.ellipse(dark, (width // 2, STAND_MARGIN_PX + thickness + 2), (half * 4 // 5, thickness), 0, 0, 360, 0.75, -1)
    shadow = cv2.GaussianBlur(dark, (0, 0), thickness / 2.5)[..., None]
    light = np.linspace(1.1, 0.75, thickness + 2 * STAND_MARGIN_PX, dtype=np.float32)
    shade = np.concatenate([light, np.full(height - len(light), light[-1], np.float32)])[:, None, None]
    return slab * shade * np.array(STAND_RGB, np.float32), (slab + shadow * (1 - slab)).astype(np.float32)


@lru_cache(maxsize=256)
def _backdrop(which: int, light_deg: int, width: int, height: int) -> Picture:
    """A gradient across the picture, darker towards its corners."""
    lit, dark = (np.array(colour, np.float32) for colour in BACKDROPS[which])
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    along = (x * np.cos(np.radians(light_deg)) + y * np.sin(np.radians(light_deg))) / np.sqrt(2) / 2 + 0.5
    picture = (lit * along[..., None] + dark * (1 - along[..., None])) * (1.06 - 0.16 * (x * x + y * y))[..., None]
    return np.clip(picture + 0.5, 0, 255).astype(np.uint8)


def _extent(shape: str, state: State) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) of the shape at radius 1, turned as it is."""
    return _turned_extent(shape, round(state.turn_deg, 1))


@lru_cache(maxsize=4096)
def _turned_extent(shape: str, turn_deg: float) -> tuple[float, float, float, float]:
    outline = _outline(shape, turn_deg)
    return outline[:, 0].min(), outline[:, 1].min(), outline[:, 0].max(), outline[:, 1].max()


def _outline(shape: str, turn_deg: float) -> NDArray[np.float64]:
    """The outline of a shape of radius 1 around the origin, [points, 2], y down; of visually similar areas."""
    around = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    match shape:
        case "circle" | "ring":
            points = np.stack([np.cos(around), np.sin(around)], 1)
        case "square":
            points = 0.9 * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], float)
        case "triangle":
            angles = np.radians([-90, 30, 150])
            points = 1.2 * np.stack([np.cos(angles), np.sin(angles)], 1)
        case "star":
            angles = np.radians(-90 + 36 * np.arange(10))
            reach = np.where(np.arange(10) % 2 == 0, 1.22, 0.53)[:, None]
            points = reach * np.stack([np.cos(angles), np.sin(angles)], 1)
        case "heart":  # the usual parametric one, scaled
            x = 16 * np.sin(around) ** 3
            y = 13 * np.cos(around) - 5 * np.cos(2 * around) - 2 * np.cos(3 * around) - np.cos(4 * around)
            points = np.stack([x, -y - 2.5], 1) / 15.5
        case _:
            raise ValueError(f"no such shape: {shape!r}; there are {', '.join(SHAPES)}")
    turn = np.radians(turn_deg)
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    return points @ rotation
