"""What image codecs cost and lose on stored frames and flow: how data/clips.py chose.

    python -m tests.bench.bench_codecs --clips=FOLDER

FOLDER as in bench_input. Two fields and a frame of each video, from its middle, pass
through OpenCV's encoders; times are of the processor, medians over images and rounds.
"""

import collections
import pathlib
import statistics
import sys
import tempfile
import time

import cv2
import numpy as np
from absl import flags

import optical_flow
from data import clips
from data.preprocessing import decoding
from tests.bench import bench_input


def png(level, strategy, row_filter=None):
    """Parameters of OpenCV's PNG encoder; without a filter libpng tries all."""
    words = [cv2.IMWRITE_PNG_COMPRESSION, level, cv2.IMWRITE_PNG_STRATEGY, strategy]
    return words + ([cv2.IMWRITE_PNG_FILTER, row_filter] if row_filter else [])


def jpeg(quality, sampling):
    """Parameters of OpenCV's JPEG encoder."""
    words = [cv2.IMWRITE_JPEG_QUALITY, quality]
    return words + [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling]


UP, RLE = cv2.IMWRITE_PNG_FILTER_UP, cv2.IMWRITE_PNG_STRATEGY_RLE
DEFAULT = cv2.IMWRITE_PNG_STRATEGY_DEFAULT
HALF = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420
FULL = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
FLOW = {
    'PNG 1, RLE': ('.png', png(1, RLE)),
    'PNG 1, RLE, up': ('.png', png(1, RLE, UP)),
    'PNG 1, up': ('.png', png(1, DEFAULT, UP)),
    'PNG 2, up': ('.png', png(2, DEFAULT, UP)),
    'PNG 3, up': ('.png', png(3, DEFAULT, UP)),
    'PNG 6, up': ('.png', png(6, DEFAULT, UP)),
    'TIFF, LZW': ('.tiff', [cv2.IMWRITE_TIFF_COMPRESSION, 5]),
    'WebP lossless': ('.webp', [cv2.IMWRITE_WEBP_QUALITY, 101]),
    'JPEG 95': ('.jpg', jpeg(95, HALF)),
    'JPEG 100': ('.jpg', jpeg(100, HALF)),
}
FRAMES = {
    **{f'JPEG {q}, 4:2:0': ('.jpg', jpeg(q, HALF)) for q in (90, 93, 95)},
    **{f'JPEG {q}, 4:4:4': ('.jpg', jpeg(q, FULL)) for q in (90, 93)},
}


def sample(paths, flow):
    """(fields as stored images, frames) from the middle of each video."""
    fields, frames = [], []
    for path in paths:
        decoded = [frame for _, frame in decoding.open_video(path).frames()]
        middle = len(decoded) // 2
        found = [
            optical_flow.resize(frame, clips.FRAME_SIZE)
            for frame in decoded[middle - 1 : middle + 2]
        ]
        grey = [cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY) for frame in found]
        function = optical_flow.flow_function(*flow.split('-'))
        for one, two in zip(grey, grey[1:], strict=False):
            field = clips.quantize_flow(function(one, two))
            fields.append(np.concatenate([field[..., 0], field[..., 1]], axis=1))
        frames.append(found[0])
    return fields, frames


def measure(codecs, images, rounds):
    """Prints write and read time, size and loss of each codec."""
    took, sizes, loss = collections.defaultdict(list), {}, {}
    flag = cv2.IMREAD_GRAYSCALE if images[0].ndim == 2 else cv2.IMREAD_COLOR
    for _ in range(rounds):
        for name, (ending, words) in codecs.items():
            errors, bytes_written = [], 0
            for image in images:
                began = time.process_time()
                _, data = cv2.imencode(ending, image, words)
                middle = time.process_time()
                decoded = cv2.imdecode(data, flag)
                end = time.process_time()
                took[name, 'write'].append(1000 * (middle - began))
                took[name, 'read'].append(1000 * (end - middle))
                errors.append(np.square(decoded.astype(float) - image).mean())
                bytes_written += len(data)
            sizes[name], loss[name] = bytes_written / len(images) / 1000, errors
    print(f'\n{"":18} write ms  read ms     kB    rms     dB  least')
    for name in codecs:
        write, read = (statistics.median(took[name, w]) for w in ('write', 'read'))
        errors = np.array(loss[name])
        line = f'{name:18}{write:9.2f}{read:9.2f}{sizes[name]:7.1f}'
        line += f'{np.sqrt(errors.mean()):7.2f}'
        if errors.all():
            decibels = 10 * np.log10(255**2 / errors)
            line += f'{np.median(decibels):7.1f}{decibels.min():7.1f}'
        print(line)


def main(video_dir, values):
    """Measures both kinds of image."""
    cv2.setNumThreads(1)
    paths = bench_input.choose(video_dir, values.count)
    fields, frames = sample(paths, values.flow)
    print(f'{len(fields)} fields, flow {values.flow}; {len(frames)} frames')
    measure(FLOW, fields, values.rounds)
    measure(FRAMES, frames, values.rounds)


if __name__ == '__main__':
    flags.DEFINE_string('clips', '', 'Folder of real videos in class folders.')
    flags.DEFINE_integer('count', 50, 'Videos that frames and fields are taken of.', 1)
    flags.DEFINE_string('flow', 'farneback', 'Algorithm, such as dis-medium.')
    flags.DEFINE_integer('rounds', 3, 'Rounds.', 1)
    flags.FLAGS(sys.argv)
    with tempfile.TemporaryDirectory() as name:
        main(bench_input.source(flags.FLAGS.clips, pathlib.Path(name)), flags.FLAGS)
