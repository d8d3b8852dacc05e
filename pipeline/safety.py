"""What of ffmpeg an untrusted file may reach, and what sizes are believed.

A playlist posing as mp4 makes ffmpeg read other files or call hosts. So: the file protocol alone, containers that
cannot name other files alone, frames of a sane size, and an end to time and output, whatever a header claims.
"""

PROTOCOLS = "file,pipe"
# ffmpeg's names of containers and picture files. Left out because they name others: hls, dash, concat, imf, sdp...
FORMATS = (
    "mov,matroska,webm,avi,ogg,flv,mpegts,mpeg,mpegvideo,asf,gif,m4v,h264,hevc,av1,obu,ivf,mjpeg,mxf,nut,rm,wtv,dv,"
    "swf,mpjpeg,yuv4mpegpipe,apng,image2,jpeg_pipe,png_pipe,webp_pipe,bmp_pipe,tiff_pipe,gif_pipe"
)
# 8K is 33 megapixels; a header that claims much more is an attack or a mistake.
MAX_FRAME_PX = 100_000_000
# Of a file that says it lasts longer, or turns out to, nothing is kept; nor if its pictures take more room than this.
MAX_VIDEO_S = 12 * 3600
MAX_PICTURES_BYTES = 4 << 30
# A video's file: 12 hours of 1080p are about as much.
MAX_FILE_BYTES = 16 * 2**30
# Videos and pictures are packed already; what unpacks to a hundred times its size is no video.
MAX_RATIO = 100


def decoding_limit_s(duration_s: float | None, size_bytes: int) -> float:
    """How long ffmpeg may take: what the header claims is not believed further than the file's size bears it out."""
    return 300 + min(4 * (duration_s or 0), size_bytes / 10_000)
