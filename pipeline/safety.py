"""Limits for untrusted files: what they may make ffmpeg do, and which sizes are accepted.

A playlist disguised as mp4 makes ffmpeg read other files or contact hosts. So only the file protocol is allowed, only
containers that cannot refer to other files, frames of a sane size, and limited time and output, whatever a header
claims.
"""

PROTOCOLS = "file,pipe"
# ffmpeg's names of containers and picture formats. Left out because they refer to others: hls, dash, concat, imf...
FORMATS = (
    "mov,matroska,webm,avi,ogg,flv,mpegts,mpeg,mpegvideo,asf,gif,m4v,h264,hevc,av1,obu,ivf,mjpeg,mxf,nut,rm,wtv,dv,"
    "swf,mpjpeg,yuv4mpegpipe,apng,image2,jpeg_pipe,png_pipe,webp_pipe,webp_anim,bmp_pipe,tiff_pipe,gif_pipe"
)
# 8K is 33 megapixels; a header that claims much more is an attack or a mistake.
MAX_FRAME_PX = 100_000_000
# A picture of 65,000 x 1 takes a gigabyte as soon as its short side is scaled up.
MAX_SIDES_RATIO = 100
# Nothing is kept of a file that claims to be longer, or is, or whose pictures take more space than this.
MAX_VIDEO_S = 12 * 3600
MAX_PICTURES_BYTES = 4 << 30
# A longer gap in a recorded stream is treated as the start of another recording, without the gap.
LONGEST_GAP_S = 3600
# A video's file in an archive: 12 hours of 1080p are about as much.
MAX_FILE_BYTES = 16 * 2**30
# Videos and pictures are compressed already; what unpacks to a hundred times its size is not a video.
MAX_RATIO = 100
# For untrusted JSON. Python's reader fails with a traceback at some larger depth, and above 4,300 digits.
MAX_JSON_DEPTH = 100
MAX_JSON_DIGITS = 100
# A caption and a reference that both repeat one word this often take METEOR some seconds; twice as often took minutes.
# 1,000 words of ordinary prose are about as much work. Longer captions are cut for METEOR.
METEOR_REPEATS = 180


def decoding_limit_s(duration_s: float | None, size_bytes: int) -> float:
    """How long ffmpeg may take, from the header's duration, but limited by the file's size."""
    return 300 + min(4 * (duration_s or 0), size_bytes / 10_000)


MAX_ENCODER_PX = 4096  # side of an encoder's pictures, of which a batch is in memory
