"""Videos of a moving texture, and what a run of optical_flow.py left of them."""

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


def contents(data_dir):
    """Path below data_dir -> bytes, of everything but the hidden folder."""
    return {
        str(path.relative_to(data_dir)): path.read_bytes()
        for path in sorted(data_dir.rglob('*'))
        if path.is_file() and '.optical_flow' not in path.parts
    }


def hidden(data_dir):
    return sorted(path.name for path in (data_dir / '.optical_flow').iterdir())
