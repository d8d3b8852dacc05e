"""Frames of a file that still grows, of a stream, or of standard input, as they arrive."""

import os
import select
import subprocess
from collections.abc import Iterator
from pathlib import Path

import ffmpeg
import imageio_ffmpeg

from pipeline.frames import Jpegs, Sampling, jpegs_of, pictures_of
from pipeline.safety import FORMATS

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
    if source == "-":
        pictures = pictures_of("pipe:0", sampling)
    elif is_address(source):
        pictures = pictures_of(source, sampling, protocol_whitelist=STREAM_PROTOCOLS, format_whitelist=STREAM_FORMATS)
    elif Path(source).is_file():
        pictures = pictures_of(f"file:{Path(source).resolve()}", sampling, follow=1)
    else:
        raise ValueError(f"{source}: no such file")
    command = jpegs_of(pictures, sampling, "pipe:1", flush_packets=1)
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
                for jpeg in (jpegs := Jpegs(buffer)):
                    count += 1
                    yield jpeg
                buffer = buffer[jpegs.size :]
            if not count:
                process.kill()
                said = process.stderr.read().decode(errors="replace").strip().splitlines()
                raise ValueError(f"{source}: no frame came ({said[-1] if said else f'in {idle_s:g} s'})")
        finally:
            process.kill()


def is_address(source: str) -> bool:
    return source.startswith(("http://", "https://"))
