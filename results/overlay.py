"""A video again, with class, probability and flow drawn in, as browsers play it.

    python evaluate.py --train_dir=runs/hybrid --video=holiday.mp4 --overlay=out.mp4

H.264 with 4:2:0 colour in an .mp4 whose index comes first, so that it plays while it
loads. Each frame keeps its own time. Sound is left out.
"""

import contextlib
import fractions
import os

import av
import cv2
import numpy as np

import optical_flow
from data.preprocessing import decoding
from results import figures

TICKS = 90_000  # a second
QUALITY = {'crf': '20', 'preset': 'veryfast'}


def write(path, source, timeline, preprocessing):
    """Writes a video with what was predicted drawn in; whole, or not at all.

    The video is read a second time: its frames as they are do not fit in memory.

    Args:
      path: .mp4 to write.
      source: path of the video.
      timeline: as `predict.predict_video` gives it.
      preprocessing: dict of `flow`, `bound`, `size` of the run.

    Raises:
      ValueError, OSError: the video cannot be read or the file not be written.
    """
    temporary = f'{path}.part'
    try:
        with contextlib.closing(decoding.open_video(source)) as video:
            drawn = _drawn(video.frames(), timeline, preprocessing)
            _encode(temporary, drawn, video)
        os.replace(temporary, path)
    except av.FFmpegError as error:
        raise ValueError(f'--overlay={path}: {error.strerror}') from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)


def _drawn(frames, timeline, preprocessing):
    """Yields (seconds, frame drawn upon)."""
    place = 0
    items = optical_flow.frames_and_flow(frames, preprocessing)
    for seconds, frame, _, field in items:
        while timeline[place]['to_seconds'] <= seconds and timeline[place + 1 :]:
            place += 1
        name, (_, probability) = timeline[place]['answer'], timeline[place]['best'][0]
        figures.draw_overlay(frame, name, probability, field, preprocessing['bound'])
        yield seconds, frame


def _encode(path, frames, video):
    """Writes (seconds, frame) as H.264; all frames get the size of the first."""
    options = {'movflags': 'faststart'}
    with av.open(path, 'w', format='mp4', options=options) as out:
        stream = out.add_stream('libx264', options=QUALITY)
        stream.pix_fmt = 'yuv420p'
        stream.codec_context.time_base = fractions.Fraction(1, TICKS)
        shape = None
        for seconds, frame in frames:
            if shape is None:
                shape = height, width, _ = frame.shape
                # chroma of half the size needs even numbers
                stream.width, stream.height = width // 2 * 2, height // 2 * 2
                stream.codec_context.sample_aspect_ratio = video.aspect
            if frame.shape != shape:
                frame = cv2.resize(frame, (width, height))
            even = np.ascontiguousarray(frame[: stream.height, : stream.width])
            encoded = av.VideoFrame.from_ndarray(even, 'bgr24')
            encoded.pts = round(seconds * TICKS)
            encoded.time_base = stream.codec_context.time_base
            out.mux(stream.encode(encoded))
        out.mux(stream.encode())
