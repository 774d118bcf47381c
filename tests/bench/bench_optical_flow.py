"""How fast optical_flow.py is, as ratios within one run of this file.

    python -m tests.bench.bench_optical_flow --clips=FOLDER

FOLDER holds videos in class folders; without it, videos are drawn (their flow is easier
on the codecs than real footage, so only real clips give figures worth printing). Each
round runs every candidate once, one after the other, so that a machine that is busy for
a while slows all of them; the medians of the rounds are compared.
"""

import itertools
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import cv2
import numpy as np
from absl import flags

import optical_flow
from data import clips
from data.preprocessing import decoding
from data.preprocessing import videos
from tests.bench import table

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
FRAMES = 2000
ALGORITHMS = ('farneback', 'dis-medium', 'dis-fast', 'dis-ultrafast')
# times the plain loop's frames/s, on two cores
AT_LEAST = {'farneback': 1.7, 'dis-medium': 2.5, 'dis-fast': 5.0}
AT_LEAST_OF_BARE = 0.6


def draw(folder):
    """Draws six videos of drifting texture, 320x240, 300 frames each."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for n in range(6):
        code = cv2.VideoWriter_fourcc(*'XVID')
        path = str(folder / f'{n}.avi')
        writer = cv2.VideoWriter(path, cv2.CAP_FFMPEG, code, 25.0, (320, 240))
        frame = cv2.GaussianBlur(random.uniform(-400, 655, (240, 320, 3)), (0, 0), 4)
        frame = np.clip(frame, 0, 255).astype(np.uint8)
        for t in range(300):
            writer.write(np.roll(frame, (n * t // 2, 2 * t), (0, 1)))
        writer.release()


def choose(video_dir):
    """Videos spread over the folder that have about FRAMES frames together."""
    found = sorted(videos.find_videos(str(video_dir)).values())
    chosen, frames = [], 0
    for number in np.random.default_rng(0).permutation(len(found)):
        path = os.path.join(video_dir, found[number])
        count = cv2.VideoCapture(path).get(cv2.CAP_PROP_FRAME_COUNT)
        if count > 1 and frames < FRAMES:
            chosen.append(found[number])
            frames += count
    return chosen


def plain_loop(video_dir, chosen, folder):
    """What the original does: one process, Farneback, two XVID videos a clip."""
    code = cv2.VideoWriter_fourcc(*'XVID')
    frames = 0
    for n, path in enumerate(chosen):
        capture = cv2.VideoCapture(os.path.join(video_dir, path))
        outputs = [
            cv2.VideoWriter(f'{folder}/{n}-{kind}.avi', code, 25.0, (224, 224))
            for kind in 'ab'
        ]
        previous = None
        while True:
            whole, frame = capture.read()
            if not whole:
                break
            frame = cv2.resize(frame, (224, 224))
            outputs[0].write(frame)
            grey = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
            if previous is not None:
                flow = cv2.calcOpticalFlowFarneback(
                    previous, grey, None, 0.5, 3, 15, 3, 5, 1.2, 0
                )
                image = np.zeros((224, 224, 3), np.uint8)
                image[:, :, :2] = np.clip((flow + 10) * (255 / 20), 0, 255)
                outputs[1].write(image)
            previous = grey
            frames += 1
        for output in outputs:
            output.release()
    return frames


def program(video_dir, listed, algorithm, folder):
    """The program as a user starts it, imports and processes included."""
    name, _, preset = algorithm.partition('-')
    words = [f'--video_dir={video_dir}', f'--data_dir={folder}', f'--list={listed}']
    words += [f'--flow={name}'] + ([f'--dis_preset={preset}'] if preset else [])
    subprocess.run(
        [sys.executable, 'optical_flow.py', *words],
        cwd=ROOT,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return sum(row['frames'] for row in clips.read_index(folder).values())


def grey_frames(video_dir, chosen):
    """Up to 300 resized grey frames from all over the chosen videos."""
    pairs = []
    for path in chosen:
        video = decoding.open_video(os.path.join(video_dir, path))
        grey = [
            cv2.cvtColor(optical_flow.resize(frame, 224), cv2.COLOR_BGR2GRAY)
            for _, frame in itertools.islice(video.frames(), 21)
        ]
        pairs += zip(grey, grey[1:], strict=False)
    return pairs[:300]


def by_opencv(video_dir, chosen):
    """Decodes and resizes the chosen videos as OpenCV does it, one thread."""
    frames = 0
    for path in chosen:
        one_thread = [cv2.CAP_PROP_N_THREADS, 1]
        path = os.path.join(video_dir, path)
        capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG, one_thread)
        while True:
            whole, frame = capture.read()
            if not whole:
                break
            optical_flow.resize(frame, 224)
            frames += 1
    return frames


def by_pyav(video_dir, chosen):
    """The same by the program's own decoding."""
    frames = 0
    for path in chosen:
        for _, frame in decoding.open_video(os.path.join(video_dir, path)).frames():
            optical_flow.resize(frame, 224)
            frames += 1
    return frames


def bare(pairs, algorithm):
    """Flow calls alone, one process, one thread."""
    function = optical_flow.flow_function(*algorithm.split('-'))
    for one, two in pairs:
        function(one, two)
    return len(pairs)


def timed(work, *arguments):
    """Frames a second of work(*arguments), which returns its frames."""
    began = time.perf_counter()
    count = work(*arguments)
    return count / (time.perf_counter() - began)


def shares(path, folder):
    """Milliseconds a frame that each step of a worker takes, DIS medium."""
    steps = ('decode', 'resize', 'flow', 'quantize', 'write frame', 'write flow')
    spent = dict.fromkeys(steps, 0)
    function = optical_flow.flow_function('dis', 'medium')
    frames_writer = clips.frames_writer(f'{folder}/frames.zip')
    flow_writer = clips.flow_writer(f'{folder}/flow.zip')
    frames, previous, count = decoding.open_video(path).frames(), None, 0
    while True:
        stamps = [time.perf_counter()]
        _, frame = next(frames, (None, None))
        if frame is None:
            break
        stamps.append(time.perf_counter())
        frame = optical_flow.resize(frame, 224)
        grey = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
        stamps.append(time.perf_counter())
        if previous is not None:
            flow = function(previous, grey)
            stamps.append(time.perf_counter())
            field = clips.quantize_flow(flow)
            stamps.append(time.perf_counter())
            frames_writer.append(frame)
            stamps.append(time.perf_counter())
            flow_writer.append(field)
            stamps.append(time.perf_counter())
            for step, seconds in zip(spent, np.diff(stamps), strict=True):
                spent[step] += seconds
            count += 1
        previous = grey
    return {step: 1000 * seconds / count for step, seconds in spent.items()}


def main(video_dir, rounds, scratch):
    """Runs the rounds and prints the figures."""
    chosen = choose(video_dir)
    listed = scratch / 'list.txt'
    listed.write_text('\n'.join(chosen))
    rates = {}
    pairs = grey_frames(video_dir, chosen)
    for turn in range(rounds):
        folder = scratch / str(turn)
        folder.mkdir()
        # The loop has OpenCV's own threads, the calls of one worker have one.
        cv2.setNumThreads(-1)
        rate = timed(plain_loop, video_dir, chosen, folder)
        rates.setdefault('plain loop', []).append(rate)
        cv2.setNumThreads(1)
        for name, function in (('OpenCV', by_opencv), ('PyAV', by_pyav)):
            rate = timed(function, video_dir, chosen)
            rates.setdefault(f'decode {name}', []).append(rate)
        for name in ALGORITHMS:
            rate = timed(program, video_dir, listed, name, str(folder / name))
            rates.setdefault(name, []).append(rate)
            rates.setdefault(f'bare {name}', []).append(timed(bare, pairs, name))
    cores = len(os.sched_getaffinity(0))
    for name in ALGORITHMS:
        ours, plain = ([1 / r for r in rates[n]] for n in (name, 'plain loop'))
        calls = [1 / (r * cores) for r in rates[f'bare {name}']]
        what = f'preprocessing a frame, --flow={name}, 224 pixels'
        limit = f'{cores} cores that only compute flow'
        table.row(what, ours, 'a plain loop, Farneback', plain, limit, calls)
    rates = {name: statistics.median(values) for name, values in rates.items()}
    print(f'{len(chosen)} videos, {rounds} rounds, {cores} cores; medians, frames/s')
    print(f'{"":14} {"program":>8} {"bare call":>10} {"x plain loop":>13} {"aim":>5}')
    print(f'{"plain loop":14} {rates["plain loop"]:8.0f}')
    for name in ALGORITHMS:
        ratio = rates[name] / rates['plain loop']
        mark = AT_LEAST.get(name, '')
        print(f'{name:14} {rates[name]:8.0f} {rates[f"bare {name}"]:10.0f}', end=' ')
        print(f'{ratio:13.2f} {mark:>5}')
    part = rates['dis-medium'] / (cores * rates['bare dis-medium'])
    aim = f'aim {AT_LEAST_OF_BARE:.0%}'
    print(f'dis-medium: {part:.0%} of {cores} x the bare call ({aim})')
    by = {name: 1000 / rates[f'decode {name}'] for name in ('OpenCV', 'PyAV')}
    print(
        'decode and resize: '
        + ', '.join(f'{name} {ms:.3f} ms a frame' for name, ms in by.items())
        + f', ratio {by["PyAV"] / by["OpenCV"]:.2f}'
    )
    spent = shares(os.path.join(video_dir, chosen[0]), scratch)
    print('one frame:', ', '.join(f'{step} {ms:.2f} ms' for step, ms in spent.items()))
    print(f'import optical_flow: {statistics.median(import_seconds()):.2f} s (aim 0.5)')


def import_seconds(times=5):
    """Seconds that importing the program takes in a new interpreter."""
    code = (
        'import time; began = time.perf_counter(); import optical_flow; '
        'print(time.perf_counter() - began)'
    )
    words = [sys.executable, '-c', code]
    return [
        float(subprocess.run(words, check=True, capture_output=True).stdout)
        for _ in range(times)
    ]


if __name__ == '__main__':
    flags.DEFINE_string('clips', '', 'Folder of real videos in class folders.')
    flags.DEFINE_integer('rounds', 3, 'Rounds whose medians are compared.', 1)
    flags.FLAGS(sys.argv)
    with tempfile.TemporaryDirectory() as name:
        place = pathlib.Path(name)
        source = pathlib.Path(flags.FLAGS.clips or place / 'videos' / 'drawn')
        if not flags.FLAGS.clips:
            source.parent.mkdir()
            draw(source)
            source = source.parent
        elif (source / 'ucf101-sample' / 'videos').is_dir():
            source = source / 'ucf101-sample' / 'videos'
        main(source, flags.FLAGS.rounds, place)
