"""What a file is: a video, a picture, or why it is neither; and what must be known of a video to sample it."""

import errno
import logging
import mmap
import re
import subprocess
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import av
import av.logging

from pipeline.dataset import ffmpeg_process
from pipeline.dataset.ffmpeg_process import Ended, UnclearFault
from pipeline.process.children import MACHINE_ERRNOS, MachineFault
from pipeline.safety import FORMATS, MAX_FRAME_PX, MAX_SIDES_RATIO, MAX_VIDEO_S, PROTOCOLS, decoding_limit_s

Kind = Literal["video", "picture"]

# Packets without a picture at a video's start before it is given up: about two minutes.
_DAMAGED_PACKETS = 3000
# Packets read from several picture streams to tell a moving one from a still.
_STILL_PACKETS = 500
# Of an MP4's index as much is searched: that of 12 hours has some 20 MB.
_MAX_HEADER_BYTES = 64 << 20
_ENDS_FROM_ZERO = ("matroska", "nut")  # their headers tell when they end, not how long they are
_MOTION_JPEG = (".mjpeg", ".mjpg")
_CHECKED_FPS = 10  # ticks per second that are counted to find out how long there are pictures

_TS_DISCONT = 0x200  # libavformat's AVFMT_TS_DISCONT
# libavutil's numbers (pixfmt.h) for a stream's colour properties.
_MATRICES = {1: "bt709", 4: "fcc", 7: "smpte240m", 9: "bt2020", 10: "bt2020"}
_MATRIX_UNSPECIFIED = 2
_PRIMARIES_BT2020 = 9
_HDR_TRANSFERS = {16: "smpte2084", 18: "arib-std-b67"}  # PQ, HLG

av.logging.set_level(None)  # its messages go to the ledger, not to the terminal
logging.getLogger("libav").setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class Look:
    """Properties of a file that opens.

    stream: ffmpeg's name of the stream that is the video. lead_s: so long after the container's start it begins, where
    ffmpeg would call that 0. matrix: ffmpeg's name of what its colours are coded by, if that is not JPEG's (BT.601).
    hdr: ffmpeg's name of its transfer function, if it has more light than a screen. wide: its red, green and blue are
    BT.2020's, beyond a screen's.
    """

    stream: str = "V:0"  # capital V: the first that is not cover art
    lead_s: float = 0.0
    matrix: str | None = None
    hdr: str | None = None
    wide: bool = False


UNSEEN = Look()  # for input that cannot be probed first: a picture among many, a stream


@dataclass(frozen=True)
class Probed:
    """kind: None if it is neither (see `reason`). duration_s: None for pictures, or if the file does not say."""

    kind: Kind | None
    reason: str | None = None
    duration_s: float | None = None


def look(path: Path) -> Look:
    """Properties for sampling; the defaults if PyAV cannot open the file, as ffmpeg may (its libavformat is newer)."""
    try:
        with ExitStack() as stack:
            container, stream = _video(path, stack)
            return UNSEEN if stream is None else _look(container, stream)
    except av.error.FFmpegError as error:
        _raise_if_ours(error, path)
        return UNSEEN


def probe(path: Path) -> Probed:
    """By its header and its first picture; what speaks against it counts if it is found twice.

    Raises MachineFault, UnclearFault.
    """
    return ffmpeg_process.confirmed(lambda: _probe(path), lambda found: found.kind is not None, path)


def check(path: Path) -> Probed:
    """`probe`, and decode a video completely: damage or a missing end becomes the reason.

    duration_s is then what there are pictures for, where the header says nothing, or less.
    Raises MachineFault, UnclearFault.
    """
    found = probe(path)
    if found.kind != "video":
        return found
    limit_s = decoding_limit_s(found.duration_s, path.stat().st_size)
    if (found.duration_s or 0) > MAX_VIDEO_S:
        return found  # `frames` will refuse it
    try:
        ended = ffmpeg_process.confirmed(lambda: _decode(path, limit_s), lambda one: one.is_clean, path)
    except subprocess.TimeoutExpired:
        return found  # `frames` will report it, and may have more time
    decoded_s = ended.frames / _CHECKED_FPS
    if not ended.frames and ended.status < 0:
        raise UnclearFault(errno.EFAULT, f"ffmpeg crashed (signal {-ended.status})")
    if not ended.frames:
        return Probed(None, f"no frame decodes ({quoted(ended.complaint, path) or 'ffmpeg gives no reason'})")
    reason = shortfall(found.duration_s, decoded_s, ended.complaint, path)
    longer = found.duration_s is None or decoded_s > found.duration_s + 1
    return Probed("video", reason, decoded_s if longer else found.duration_s)


def shortfall(duration_s: float | None, decoded_s: float, complaint: str | None, path: Path) -> str | None:
    """What is wrong with a video that has pictures for so long, if anything."""
    cut = None
    if duration_s is not None and duration_s - decoded_s > 1:
        cut = f"pictures for {decoded_s:.1f} of {duration_s:.1f} s"
    heard = quoted(complaint, path)
    return "; ".join(part for part in (cut, heard and f"damaged ({heard})") if part) or None


def quoted(complaint: str | None, path: Path) -> str | None:
    """ffmpeg's message as a reason: short, and without the folder's name."""
    return complaint and complaint.replace(str(path.resolve()), path.name)[:120]


def _probe(path: Path) -> Probed:
    with path.open("rb") as file:
        head = file.read(4096)
    if reason := _other(head):
        return Probed(None, reason)
    try:
        with ExitStack() as stack:
            container, stream = _video(path, stack)
            if stream is None:
                return Probed(None, "sound only, no pictures" if container.streams.audio else "no video stream")
            if _says_encrypted(container, stream, path):  # which may decode by chance
                return Probed(None, "encrypted")
            if stream.codec_context is None:
                return Probed(None, "pictures in an unknown codec")
            kind, duration_s = _kind(container, stream, path)
            if reason := _shape(stream.width, stream.height):
                return Probed(None, reason)
            picture = _first(container, stream)
            if reason := _shape(picture.width, picture.height):
                return Probed(None, reason)
    except av.error.FFmpegError as error:
        _raise_if_ours(error, path)
        if error.errno == errno.EINVAL:  # the error when the format is not on the list of allowed ones
            return Probed(None, "not a container of videos or pictures")
        if _is_animated_webp(head):  # ffmpeg decodes it, PyAV's older libavformat does not
            return Probed("video") if _decode(path, 60, frames=1).frames else Probed(None, "no frame decodes")
        return Probed(None, _scrambled(path) or f"does not open or decode ({error.strerror})")
    return Probed(kind, _unfinished(path, head) if kind == "picture" else None, duration_s)


def _opened(path: Path) -> av.container.InputContainer:
    options = {"protocol_whitelist": PROTOCOLS, "format_whitelist": FORMATS}
    # With a protocol, because "10:30.mp4" is a file.
    return av.open(f"file:{path.resolve()}", options=options, metadata_errors="replace")


def _video(path: Path, stack: ExitStack) -> tuple[av.container.InputContainer, Any]:
    """The file, open until the stack is closed, and its video stream, or None.

    A moving stream is preferred to a still, then the default stream, then the first.
    """
    container = stack.enter_context(_opened(path))
    found = [one for one in container.streams.video if not _is_beside(one)]
    if len(found) < 2:
        return container, found[0] if found else None
    packets = {one.index: one.frames for one in found}  # according to the header, or 0
    if 0 in packets.values():
        for packet in islice(container.demux(*found), _STILL_PACKETS):
            packets[packet.stream.index] += packet.size > 0
        container = stack.enter_context(_opened(path))  # back to the start

    def rank(one: av.VideoStream) -> tuple[bool, bool, int]:
        is_default = bool(one.disposition & av.stream.Disposition.default.value)
        return packets[one.index] < 2, not is_default, one.index

    return container, container.streams[min(found, key=rank).index]


def _is_beside(stream: av.VideoStream) -> bool:
    """Cover art, or a film's chapter pictures."""
    kinds = av.stream.Disposition
    beside = kinds.attached_pic.value, kinds.timed_thumbnails.value, kinds.still_image.value
    return any(stream.disposition & kind for kind in beside)


def _look(container: av.container.InputContainer, stream: av.VideoStream) -> Look:
    lead_s, start, own_start = 0.0, container.start_time, stream.start_time
    # For streams such as MPEG-TS, ffmpeg takes the start of what it decodes as the start of the container.
    if container.format.flags & _TS_DISCONT and start is not None and own_start is not None and stream.time_base:
        lead_s = max(0.0, float(own_start * stream.time_base) - start / av.time_base)
    codec = stream.codec_context
    if codec is None:
        return Look(str(stream.index), lead_s)
    is_hd = codec.height >= 720 or codec.width >= 1280  # which mean BT.709 if they do not state their colours
    matrix = "bt709" if codec.colorspace == _MATRIX_UNSPECIFIED and is_hd else _MATRICES.get(codec.colorspace)
    wide = codec.color_primaries == _PRIMARIES_BT2020
    return Look(str(stream.index), lead_s, matrix, _HDR_TRANSFERS.get(codec.color_trc), wide)


def _first(container: av.container.InputContainer, stream: Any) -> av.VideoFrame:
    """The first picture that decodes. Raises the first FFmpegError."""
    stream.thread_type = "NONE"  # when opening 20,000 videos, threads cost more than they save
    first_error: av.error.FFmpegError | None = None
    for packet in islice(container.demux(stream), _DAMAGED_PACKETS):
        try:
            for frame in packet.decode():
                return frame
        except av.error.InvalidDataError as error:
            first_error = first_error or error
    raise first_error or av.error.InvalidDataError(av.error.tag_to_code(b"INDA"), "no frame decodes")


def _decode(path: Path, limit_s: float, frames: int | None = None) -> Ended:
    """Decode the video (or so many frames of it), counting _CHECKED_FPS frames for each second on screen."""
    found = look(path)
    pictures = on_screen(ffmpeg_process.opened(f"file:{path.resolve()}", found.stream), found, _CHECKED_FPS)
    most = {"frames:v": frames or MAX_VIDEO_S * _CHECKED_FPS}
    command = pictures.output("-", format="null", fps_mode="passthrough", **most)
    return ffmpeg_process.run(command, limit_s)


def on_screen(pictures: Any, found: Look, fps: Any) -> Any:
    """The ffmpeg-python stream of what is on screen i / fps seconds after the container's start, for i = 0, 1, ..."""
    if found.lead_s:
        pictures = pictures.filter("setpts", f"PTS+{found.lead_s:.6f}/TB")
    return pictures.filter("fps", fps=fps, round="up", start_time=0)


def _shape(width: int, height: int) -> str | None:
    """Why pictures of that size are refused, or None."""
    if width * height > MAX_FRAME_PX:
        return f"frames of {width}x{height} are too large"
    if width and height and max(width, height) > MAX_SIDES_RATIO * min(width, height):
        return f"frames of {width}x{height}: more than {MAX_SIDES_RATIO} times as long as wide"
    return None


def _kind(container: av.container.InputContainer, video: av.VideoStream, path: Path) -> tuple[Kind, float | None]:
    """The kind, and the duration in seconds if the header states it."""
    if container.format.name == "image2" or container.format.name.endswith("_pipe"):
        # JPEG files one behind the other are a film by their name alone: a photo may have a second one behind it.
        return ("video" if path.suffix.lower() in _MOTION_JPEG else "picture"), None
    duration_s = None
    if container.duration and container.duration > 0:
        duration_s = container.duration / av.time_base
        if container.format.name.startswith(_ENDS_FROM_ZERO) and container.start_time:
            duration_s -= container.start_time / av.time_base
    elif video.duration and video.duration > 0 and video.time_base:
        duration_s = float(video.duration * video.time_base)
    if duration_s is None and video.frames == 1:  # AVIF, HEIC
        return "picture", None
    if duration_s and duration_s > MAX_VIDEO_S:
        duration_s = _measured_s(path, video.index) or duration_s
    return "video", duration_s if duration_s and duration_s > 0 else None


def _measured_s(path: Path, stream: int) -> float | None:
    """By the times of its packets: a header of a file that was never finished may claim 5,000 years."""
    with _opened(path) as container:
        video = container.streams[stream]
        times = [packet.pts for packet in container.demux(video) if packet.size and packet.pts is not None]
    return float((max(times) - min(times)) * video.time_base) if times and video.time_base else None


_PLAYLISTS = (b"#EXTM3U", b"ffconcat", b"<?xml", b"<MPD", b"v=0")
_WEB_PAGE = re.compile(rb"<!doctype html|<html|<head|<body|<script", re.IGNORECASE)
_SOUND = re.compile(rb"ID3|fLaC|\xff[\xfb\xf3\xf2\xfa\xf1\xf9]|RIFF....WAVE|MThd|OpusHead|#!AMR", re.DOTALL)


def _other(head: bytes) -> str | None:
    """What a file is that begins with these bytes, if that is certainly not a video."""
    if not head:
        return "zero bytes"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text.startswith(_PLAYLISTS):
        return "a playlist or other text, not a video"
    if _WEB_PAGE.match(text):
        return "a web page, not a video"
    if _SOUND.match(head):
        return "sound only, no pictures"
    if head.startswith(b"%PDF"):
        return "a PDF, not a video"
    if not re.search(rb"[\0-\x08\x0e-\x1a\x1c-\x1f\x7f]", head) and _is_utf8(head):
        return "text, not a video"
    return None


def _is_utf8(head: bytes) -> bool:
    try:
        head[:-3].decode()  # a character may be cut off
    except UnicodeDecodeError:
        return False
    return True


def _is_animated_webp(head: bytes) -> bool:
    return head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X" and bool(head[20] & 2)


def _says_encrypted(container: av.container.InputContainer, stream: Any, path: Path) -> bool:
    """Whether the file's header says so of its pictures: ISO/IEC 23001-7 in MP4, ContentEncryption in Matroska."""
    if container.format.name.startswith("matroska"):
        return "enc_key_id" in stream.metadata
    if not container.format.name.startswith("mov"):
        return False
    with path.open("rb") as file:
        at, size = 0, path.stat().st_size
        while at + 8 <= size:
            file.seek(at)
            head = file.read(16)
            length, kind = int.from_bytes(head[:4], "big"), head[4:8]
            if length == 1:
                length = int.from_bytes(head[8:16], "big")
            if kind == b"moov":
                file.seek(at)
                header = file.read(min(length, _MAX_HEADER_BYTES) if length else _MAX_HEADER_BYTES)
                return b"sinf" in header and (b"encv" in header or b"drmi" in header)
            if length < 8:
                return False
            at += length
    return False


def _scrambled(path: Path) -> str | None:
    """Of an MPEG-TS that does not decode: whether most of its packets say that they are scrambled."""
    with path.open("rb") as file:
        data = file.read(188 * 200)
    packets = [data[at : at + 4] for at in range(0, len(data) - 4, 188)]
    is_ts = all(one[0] == 0x47 for one in packets) and sum(one[3] >= 0x80 for one in packets) > len(packets) / 2
    return "encrypted" if packets and is_ts else None


def _unfinished(path: Path, head: bytes) -> str | None:
    """Whether a JPEG file that decodes is cut off."""
    if not head.startswith(b"\xff\xd8"):
        return None
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        ends = data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda")  # end of image, start of a scan
    return None if ends else "damaged (it is cut off)"


def _raise_if_ours(error: av.error.FFmpegError, path: Path) -> None:
    if error.errno == errno.ENOMEM:
        raise UnclearFault(error.errno, f"{path.name} cannot be opened: {error.strerror}") from None
    if isinstance(error, OSError) and error.errno in MACHINE_ERRNOS - {errno.EIO, errno.EAGAIN}:
        raise MachineFault(error.errno, f"{path} cannot be read: {error.strerror}") from None
