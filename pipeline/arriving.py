"""Frames of a file that still grows, of a stream, or of standard input, as they arrive."""

import os
import select
import subprocess
from collections.abc import Iterator
from pathlib import Path

import ffmpeg
import imageio_ffmpeg

from pipeline.frames import Sampling, jpegs_of, split_jpegs
from pipeline.safety import FORMATS, MAX_FRAME_PX, PROTOCOLS

# An address that the user typed may be fetched, and a live playlist behind it read; files it may not reach.
STREAM_PROTOCOLS = "http,https,tcp,tls,crypto"
STREAM_FORMATS = f"{FORMATS},hls"


def arriving_frames(source: str, sampling: Sampling, *, idle_s: float) -> Iterator[bytes]:
    """JPEG frames at the sampling's rate, each as soon as it is there.

    Args:
        source: a file, an http(s) address, or - for standard input.
        idle_s: the end, when nothing has come for so many seconds; a file that grows has no other.

    Raises ValueError if no frame came at all.
    """
    limits = {"max_pixels": MAX_FRAME_PX, "threads": 1, "reinit_filter": 0}
    if source == "-":
        node = ffmpeg.input("pipe:0", protocol_whitelist=PROTOCOLS, format_whitelist=FORMATS, **limits)
    elif is_address(source):
        node = ffmpeg.input(source, protocol_whitelist=STREAM_PROTOCOLS, format_whitelist=STREAM_FORMATS, **limits)
    elif Path(source).is_file():
        path = f"file:{Path(source).resolve()}"
        node = ffmpeg.input(path, protocol_whitelist=PROTOCOLS, format_whitelist=FORMATS, follow=1, **limits)
    else:
        raise ValueError(f"{source}: no such file")
    command = jpegs_of(node, sampling, "pipe:1", format="image2pipe", flush_packets=1)
    command = command.global_args("-v", "error", *(() if source == "-" else ("-nostdin",)))
    arguments = ffmpeg.compile(command, cmd=imageio_ffmpeg.get_ffmpeg_exe())
    stdin = None if source == "-" else subprocess.DEVNULL
    with subprocess.Popen(arguments, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            assert process.stdout and process.stderr
            buffer, count = b"", 0
            while select.select([process.stdout], [], [], idle_s)[0]:
                if not (read := os.read(process.stdout.fileno(), 1 << 20)):
                    break
                buffer += read
                for jpeg in split_jpegs(buffer):
                    buffer = buffer[len(jpeg) :]
                    count += 1
                    yield jpeg
            if not count:
                process.kill()
                said = process.stderr.read().decode(errors="replace").strip().splitlines()
                raise ValueError(f"{source}: no frame came ({said[-1] if said else f'in {idle_s:g} s'})")
        finally:
            process.kill()


def is_address(source: str) -> bool:
    return source.startswith(("http://", "https://"))
