"""Pictures that carry a number, and files as somebody else's encoder would write them."""

from fractions import Fraction

import av
import numpy as np

BITS = 8


def numbered(number, height=64, width=128, bits=BITS):
    """A picture that carries its number as black or white bars: it survives any codec."""
    bars = [(number >> bit) & 1 for bit in range(bits)]
    row = np.repeat(np.array(bars, np.uint8) * 255, width // bits)
    return np.broadcast_to(row[None, :, None], (height, width, 3)).copy()


def number_of(picture, bits=BITS):
    width = picture.shape[1] // bits
    return sum(
        int(picture[:, bit * width + width // 4 : (bit + 1) * width - width // 4].mean() > 127) << bit
        for bit in range(bits)
    )


def write_video(path, pictures, times, codec="mpeg4", options=None, muxing=None, rate=30, **stream_settings):
    """Write pictures at the given seconds, in thousandths, as somebody else's encoder would."""
    with av.open(str(path), "w", options=muxing or {}) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.options = options or {}
        base = Fraction(1, rate if path.suffix in (".swf", ".avi") else 1000)
        stream.codec_context.time_base = base
        for name, value in stream_settings.items():
            setattr(stream.codec_context, name, value)
        for picture, time in zip(pictures, times, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=stream.pix_fmt)
            frame.pts, frame.time_base = round(time / base), base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
