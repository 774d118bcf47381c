"""Videos of a moving texture, and what a run of optical_flow.py left of them."""

import fractions

import av
import cv2
import numpy as np


def texture(height=120, width=160, seed=0):
    """Smooth spots, brown: stored chroma is too coarse for spots of every colour."""
    noise = np.random.default_rng(seed).uniform(0, 255, (height, width))
    smooth = cv2.GaussianBlur(noise, (0, 0), 3)
    grey = cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX)
    return (grey[:, :, np.newaxis] * (0.6, 0.8, 1)).astype(np.uint8)


def draw(path, frames=8, shift=(2, 1), fourcc='MJPG', seed=0):
    """Writes a video of a texture that moves by `shift` (x, y) pixels a frame."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frame = texture(seed=seed)
    code = cv2.VideoWriter_fourcc(*fourcc)
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, code, 25.0, (160, 120))
    assert writer.isOpened()
    for t in range(frames):
        writer.write(np.roll(frame, (shift[1] * t, shift[0] * t), (0, 1)))
    writer.release()
    return path


def by_opencv(path):
    """All frames of a video by another decoder than the program's."""
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    frames = []
    while True:
        whole, frame = capture.read()
        if not whole:
            return frames
        frames.append(frame)


def contents(data_dir):
    """Path below data_dir -> bytes, of everything but the hidden folder."""
    return {
        str(path.relative_to(data_dir)): path.read_bytes()
        for path in sorted(data_dir.rglob('*'))
        if path.is_file() and '.optical_flow' not in path.parts
    }


def hidden(data_dir):
    return sorted(path.name for path in (data_dir / '.optical_flow').iterdir())


# -- frames that show their number -----------------------------------------------------


def numbered(n, height=96, width=128):
    """A frame that shows n as a bar code of eight blocks along its top.

    Below moves a coarse grey texture, so that a frame in the wrong place, one that is
    repeated and one that is left over from elsewhere do not look like the right one.
    """
    frame = np.full((height, width, 3), 60, np.uint8)
    y, x = np.mgrid[:height, :width]
    frame[:] = (90 + 60 * np.sin((x + 3 * n) / 9) * np.cos(y / 7))[..., np.newaxis]
    frame[: height // 4] = 16
    for bit in range(8):
        if n >> (7 - bit) & 1:
            left = bit * width // 8
            frame[: height // 4, left : left + width // 8] = 235
    return frame


def number_of(frame):
    """The number that a frame shows."""
    height, width = frame.shape[:2]
    top = frame[height // 16 : height // 5].mean(axis=(0, 2))
    blocks = top.reshape(8, width // 8)[:, 2:-2].mean(axis=1)
    return int((blocks > 127) @ (1 << np.arange(7, -1, -1)))


def encode(path, codec='libx264', numbers=range(30), **options):
    """Writes numbered frames, by PyAV.

    Args:
      path: the file; its ending chooses the container.
      codec: encoder.
      numbers: the number that each frame shows.
      options: `stamps` (ints in 1/rate seconds, default 0, 1, ...), `rate` (25),
        `pix_fmt` ('yuv420p'), `size` ((width, height)), `matrix` (display matrix),
        `container` and `encoder` (dicts of options), `format`.

    Returns:
      path.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    container = options.get('container', {})
    with av.open(str(path), 'w', options.get('format'), options=container) as out:
        stream = new_track(out, codec, **options)
        fill_track(out, stream, numbers, **options)
    return path


def new_track(out, codec, **options):
    """A track of an opened container; options as in `encode`, and `disposition`."""
    rate = options.get('rate', 25)
    # libvpx, at its best, may try the same frame again and again without an end
    quick = {'deadline': 'realtime', 'cpu-used': '4'} if 'vpx' in codec else {}
    encoder = {**quick, **options.get('encoder', {})}
    stream = out.add_stream(codec, rate=rate, options=encoder)
    stream.width, stream.height = options.get('size', (128, 96))
    stream.pix_fmt = options.get('pix_fmt', 'yuv420p')
    if 'matrix' in options:
        stream.set_display_matrix(options['matrix'])
    if 'disposition' in options:
        stream.disposition = options['disposition']
    return stream


def fill_track(out, stream, numbers, **options):
    """Encodes numbered frames into a track of `new_track`."""
    stamps = options.get('stamps', range(len(numbers)))
    for n, stamp in zip(numbers, stamps, strict=True):
        drawn = numbered(n, stream.height, stream.width)
        frame = av.VideoFrame.from_ndarray(drawn, 'bgr24')
        frame.pts, frame.time_base = (
            stamp,
            fractions.Fraction(1, options.get('rate', 25)),
        )
        out.mux(stream.encode(frame))
    out.mux(stream.encode())


def silence(out, stream, seconds):
    """Encodes seconds of silence into a track of sound."""
    rate, size = stream.rate, 1024
    layout = stream.codec_context.format.name
    zeros = np.zeros((1, size), np.int16 if layout == 's16' else np.float32)
    for n in range(seconds * rate // size):
        frame = av.AudioFrame.from_ndarray(zeros, layout, 'mono')
        frame.sample_rate, frame.pts = rate, n * size
        frame.time_base = fractions.Fraction(1, rate)
        out.mux(stream.encode(frame))
    out.mux(stream.encode())
