"""What of ffmpeg an untrusted file may reach.

A playlist posing as mp4 makes ffmpeg read other files or call hosts. So: the file protocol alone, containers that
cannot name other files alone, and frames of a sane size.
"""

PROTOCOLS = "file,pipe"
# ffmpeg's names of containers and picture files. Left out because they name others: hls, dash, concat, imf, sdp...
FORMATS = (
    "mov,matroska,webm,avi,ogg,flv,mpegts,mpeg,mpegvideo,asf,gif,m4v,h264,hevc,av1,obu,ivf,mjpeg,mxf,nut,rm,wtv,dv,"
    "swf,mpjpeg,yuv4mpegpipe,apng,image2,jpeg_pipe,png_pipe,webp_pipe,bmp_pipe,tiff_pipe,gif_pipe"
)
# 8K is 33 megapixels; a header that claims much more is an attack or a mistake.
MAX_FRAME_PX = 100_000_000
