"""Which packets of a video no sampled frame needs: ffmpeg is spared decoding them.

H.264 marks the pictures that no other refers to (nal_ref_idc 0, ITU-T H.264 7.4.1: most B-frames), and those past which
none refers (IDR). So a picture that is not sampled can be left out before the decoder if nothing refers to it, or if
all up to the next IDR are left out, and every other picture stays what it was, bit by bit. Nothing is decoded to find
out: which are sampled follows from the packets' times.

What is left out has to be certain. `unneeded` says "nothing" of other codecs, of containers whose times ffmpeg
corrects while it reads, and of whatever is unusual about a stream.
"""

import heapq
import time
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av

from pipeline.safety import FORMATS, PROTOCOLS

# ffmpeg takes the times of these as they are; it looks for jumps and wraps in those of streams (MPEG-TS, say).
_CONTAINERS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
_PROFILES = (66, 77, 100, 110, 122, 244)  # Baseline to High 4:4:4: one layer, one view, whole slices
_HIGH_PROFILES = (100, 110, 122, 244)
_SLICE, _IDR, _SEI, _SPS, _PPS, _DELIMITER, _END_OF_SEQUENCE, _END_OF_STREAM, _FILLER = 1, 5, 6, 7, 8, 9, 10, 11, 12
_PICTURES = {_SLICE, _IDR}
_KNOWN = {_SLICE, _IDR, _SEI, _SPS, _PPS, _DELIMITER, _END_OF_SEQUENCE, _END_OF_STREAM, _FILLER}
_SPARED = {_SLICE, _IDR, _SEI, _DELIMITER, _FILLER}  # of what a packet may consist that is left out
_LARGEST_RATE_PART = 1_001_000  # of numerator and denominator; ffmpeg rounds larger ones
# ffmpeg tells from the last pictures how long the last one stays.
_LAST = 3


class _CannotTell(Exception):
    pass


def unneeded(path: Path, rate: Fraction, *, deadline: float) -> list[bool]:
    """For each packet of the file's video stream, in the file's order, whether sampling can do without it.

    Args:
        rate: sampled frames per second: frame i is the last picture whose time is not later than i / rate.
        deadline: by time.monotonic().

    Returns an empty list where it cannot tell, or not before the deadline.
    """
    options = {"protocol_whitelist": PROTOCOLS, "format_whitelist": FORMATS}
    try:
        with av.open(str(path), options=options, metadata_errors="replace") as container:
            return _unneeded(container, rate, deadline)
    except (_CannotTell, av.error.FFmpegError):
        return []


def drop_filter(unneeded: list[bool]) -> str:
    """ffmpeg's bitstream filter that drops those packets, for `-bsf`.

    Its condition knows a packet's number, n: a tree of comparisons ends at an integer with a bit per packet.
    """

    def tree(first: int, end: int) -> str:
        if end - first == 1:
            bits = sum(1 << i for i, drop in enumerate(unneeded[first * size :][:size]) if drop)
            return f"mod(floor({bits}/pow(2,n-{first * size})),2)"
        middle = (first + end) // 2
        return f"if(lt(n,{middle * size}),{tree(first, middle)},{tree(middle, end)})"

    size = 48  # bits that a double holds exactly
    return f"noise=drop='{tree(0, -(-len(unneeded) // size))}'"


def _unneeded(container: av.container.InputContainer, rate: Fraction, deadline: float) -> list[bool]:
    if container.format.name not in _CONTAINERS or len(container.streams.video) != 1 or container.start_time is None:
        raise _CannotTell
    stream = container.streams.video[0]
    codec, time_base = stream.codec_context, stream.time_base
    if (
        codec is None
        or codec.name != "h264"
        or time_base is None
        or max(rate.numerator, rate.denominator) > _LARGEST_RATE_PART
    ):
        raise _CannotTell
    length_bytes, parameters = _parameters(codec.extradata or b"")
    held_back = min(_held_back(one) for one in parameters)

    times: list[int] = []  # as ffmpeg shows them, in units of time_base, in the order of decoding
    kinds: list[_Packet] = []
    start = _nearest(Fraction(container.start_time, av.time_base) / time_base)
    for packet in container.demux(stream):
        if packet.size == 0 and packet.dts is None:  # PyAV's end of the stream
            break
        if packet.pts is None or packet.is_corrupt or packet.is_discard or time.monotonic() > deadline:
            raise _CannotTell
        times.append(packet.pts - start)
        kinds.append(_read(memoryview(packet), length_bytes, parameters))

    _check_order(times, held_back)
    order = sorted(range(len(times)), key=times.__getitem__)
    # From which frame on each picture counts. The first picture also stands for what is before it.
    per_tick = time_base * rate  # taken apart: a product of fractions per packet takes as long as reading the packets
    first_frame = [max(0, -(-times[i] * per_tick.numerator // per_tick.denominator)) for i in order]
    needed = {*order[:1], *order[-_LAST:]}
    needed |= {i for i, (own, following) in zip(order, pairwise(first_frame), strict=False) if own != following}

    left_out = [False] * len(kinds)
    is_referred_to = False  # by a later picture that stays
    for i in reversed(range(len(kinds))):
        left_out[i] = i not in needed and kinds[i].is_picture and not (is_referred_to and kinds[i].is_reference)
        is_referred_to = not kinds[i].is_idr and (is_referred_to or not left_out[i])
    return left_out


def _check_order(times: list[int], held_back: int) -> None:
    """Raises unless a decoder that holds back so many pictures gives all in order. Else it guesses, and loses some;
    leaving out packets might save others.
    """
    held: list[int] = []
    last: int | None = None
    for time_ in times:
        heapq.heappush(held, time_)
        if len(held) > held_back:
            shown = heapq.heappop(held)
            if last is not None and shown <= last:
                raise _CannotTell
            last = shown
    if len(set(times)) < len(times):
        raise _CannotTell


def _nearest(value: Fraction) -> int:
    """Halves away from zero, as ffmpeg rounds a container's start to a stream's time base."""
    return int(value + Fraction(1, 2)) if value >= 0 else -int(-value + Fraction(1, 2))


def _parameters(extradata: bytes) -> tuple[int, set[bytes]]:
    """Bytes of a NAL unit's length, and the sequence parameter sets (ISO/IEC 14496-15, 5.3.3.1)."""
    if len(extradata) < 7 or extradata[0] != 1:
        raise _CannotTell
    sets: set[bytes] = set()
    at = 6
    for _ in range(extradata[5] & 31):
        size = int.from_bytes(extradata[at : at + 2], "big")
        sets.add(extradata[at + 2 : at + 2 + size])
        at += 2 + size
    if not sets:
        raise _CannotTell
    return (extradata[4] & 3) + 1, sets


@dataclass(frozen=True, slots=True)
class _Packet:
    """is_picture: and nothing that later ones need, such as parameters. is_reference: others may refer to it.

    is_idr: no later picture refers past it.
    """

    is_picture: bool
    is_reference: bool
    is_idr: bool


def _read(packet: memoryview, length_bytes: int, parameters: set[bytes]) -> _Packet:
    at, kinds, is_reference = 0, set(), False
    while at < len(packet):
        start = at + length_bytes
        end = start + int.from_bytes(packet[at:start], "big")
        if not start < end <= len(packet):
            raise _CannotTell
        header = packet[start]
        kind = header & 31
        if kind not in _KNOWN or (kind == _SPS and bytes(packet[start:end]) not in parameters):
            raise _CannotTell
        kinds.add(kind)
        is_reference = is_reference or (kind in _PICTURES and bool(header & 0x60))
        at = end
    if kinds.isdisjoint(_PICTURES) or kinds >= _PICTURES:
        raise _CannotTell
    return _Packet(kinds <= _SPARED, is_reference, _IDR in kinds)


def _held_back(sps: bytes) -> int:
    """How many pictures this parameter set has a decoder hold back (ITU-T H.264 7.3.2.1.1, E.1.1), 0 if it is silent.

    Where it allows interlaced coding a packet may be one field of a picture: cannot tell.
    """
    bits = _Bits(sps[1:].replace(b"\0\0\3", b"\0\0"))
    profile, _, _ = bits.u(8), bits.u(8), bits.u(8)
    bits.ue()  # seq_parameter_set_id
    if profile not in _PROFILES:
        raise _CannotTell
    if profile in _HIGH_PROFILES:
        if bits.ue() == 3:  # chroma_format_idc
            bits.u(1)
        bits.skip("ue ue 1")  # bit depths, qpprime_y_zero_transform_bypass_flag
        if bits.u(1):  # seq_scaling_matrix_present_flag
            raise _CannotTell
    bits.ue()  # log2_max_frame_num_minus4
    order_type = bits.ue()
    if order_type == 0:
        bits.ue()
    elif order_type == 1:
        bits.skip("1 ue ue")
        for _ in range(bits.ue()):
            bits.ue()
    bits.skip("ue 1 ue ue")  # max_num_ref_frames, gaps_in_frame_num_value_allowed_flag, width, height
    if not bits.u(1):  # frame_mbs_only_flag
        raise _CannotTell
    bits.u(1)  # direct_8x8_inference_flag
    if bits.u(1):  # frame_cropping_flag
        bits.skip("ue ue ue ue")
    if not bits.u(1):  # vui_parameters_present_flag
        return 0
    if bits.u(1) and bits.u(8) == 255:  # aspect_ratio_idc
        bits.u(32)
    if bits.u(1):  # overscan_info_present_flag
        bits.u(1)
    if bits.u(1):  # video_signal_type_present_flag
        bits.u(4)
        if bits.u(1):
            bits.u(24)
    if bits.u(1):  # chroma_loc_info_present_flag
        bits.skip("ue ue")
    if bits.u(1):  # timing_info_present_flag
        bits.u(65)
    hrds = 0
    for _ in ("nal", "vcl"):
        if bits.u(1):
            hrds += 1
            count = bits.ue() + 1
            bits.u(8)
            for _ in range(count):
                bits.skip("ue ue 1")
            bits.u(20)
    if hrds:
        bits.u(1)  # low_delay_hrd_flag
    bits.u(1)  # pic_struct_present_flag
    if not bits.u(1):  # bitstream_restriction_flag
        return 0
    bits.skip("1 ue ue ue ue")
    return bits.ue()  # max_num_reorder_frames


class _Bits:
    def __init__(self, data: bytes) -> None:
        self._bits = f"{int.from_bytes(data, 'big'):0{8 * len(data)}b}"
        self._at = 0

    def u(self, count: int) -> int:
        """An unsigned number of so many bits."""
        self._at += count
        if self._at > len(self._bits):
            raise _CannotTell
        return int(self._bits[self._at - count : self._at] or "0", 2)

    def ue(self) -> int:
        """An exponential-Golomb code; a signed one takes as many bits."""
        zeros = 0
        while not self.u(1):
            zeros += 1
        return (1 << zeros) - 1 + self.u(zeros)

    def skip(self, fields: str) -> None:
        for field in fields.split():
            if field == "ue":
                self.ue()
            else:
                self.u(int(field))
