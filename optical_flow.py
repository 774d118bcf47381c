"""Videos to what the networks read: resized frames and the optical flow between them.

    python optical_flow.py --video_dir=UCF-101 --data_dir=data/ucf101

Videos are in class folders (Archery/anything.avi) or are named as UCF101's
(v_Archery_g01_c01.avi). The result is described in data/README.md. A second run does
only what is missing; --shard=0/4 .. 3/4 spread the work over four machines.

Flow: DIS (Kroeger et al., ECCV 2016), Farneback (SCIA 2003) or TV-L1 (Zach et al.,
DAGM 2007), as OpenCV implements them, between consecutive resized grey frames.
"""

import collections
import contextlib
import functools
import itertools
import math
import os
import re
import signal
import sys
import time

import cv2
import tqdm
from absl import flags

from data import clips
from data.preprocessing import check
from data.preprocessing import decoding
from data.preprocessing import estimate
from data.preprocessing import journal
from data.preprocessing import preview
from data.preprocessing import settings
from data.preprocessing import videos
from data.preprocessing import workers
from results import command_line

DIS_PRESETS = {
    'ultrafast': cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    'fast': cv2.DISOPTICAL_FLOW_PRESET_FAST,
    'medium': cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}
FARNEBACK = {
    'pyr_scale': 0.5,
    'levels': 3,
    'winsize': 15,
    'iterations': 3,
    'poly_n': 5,
    'poly_sigma': 1.2,
    'flags': 0,
}
# Bilinear reads every source pixel only while a frame shrinks to no less than half;
# beyond that, areas are averaged, or fine structure would flicker as motion.
RESIZING = {'at_factor': 2, 'from_there': 'INTER_AREA', 'below': 'INTER_LINEAR'}


def define_flags():
    flags.DEFINE_string('video_dir', None, 'Folder of videos, in class folders.')
    flags.DEFINE_string('data_dir', None, 'Folder for frames and flow.')
    flags.DEFINE_enum('flow', 'farneback', ['dis', 'farneback', 'tvl1'], 'Algorithm.')
    flags.DEFINE_enum('dis_preset', 'medium', list(DIS_PRESETS), 'Speed of --flow=dis.')
    flags.DEFINE_float(
        'flow_bound',
        clips.FLOW_BOUND,
        'Flow magnitude, pixels a frame, that maps to 1 and 255; larger is clipped.',
        0.1,
    )
    flags.DEFINE_integer(
        'frame_size', clips.FRAME_SIZE, 'Stored height and width.', 32, 4096
    )
    # not-a-number passes every bound
    flags.register_validator('flow_bound', math.isfinite, 'give a finite number')
    flags.DEFINE_integer('workers', 0, 'Processes; 0 for one a core.', 0)
    flags.DEFINE_string('shard', '0/1', 'i/n: only part i (from 0) of n parts.')
    # of the command line of a job that trains: the same as --shard
    flags.DEFINE_list('worker_hosts', [], 'HOST:PORT of the workers that share this.')
    flags.DEFINE_integer('task_index', None, 'Which of them this is, from 0.')
    flags.DEFINE_string('list', None, 'Text file: only these videos, one a line.')
    flags.DEFINE_bool('overwrite', False, 'Make clips of other settings again.')
    flags.DEFINE_bool('keep_truncated', False, 'Keep what decodes of a damaged video.')
    flags.DEFINE_integer('preview', 0, 'Write contact sheets of this many clips.', 0)
    flags.DEFINE_bool('check', False, 'Verify every file in --data_dir.')


def resize(frame, size):
    """A frame resized to uint8 [size, size, 3], whatever its shape was."""
    shrinks = max(frame.shape[:2]) >= RESIZING['at_factor'] * size
    method = getattr(cv2, RESIZING['from_there' if shrinks else 'below'])
    return cv2.resize(frame, (size, size), interpolation=method)


def flow_function(name, preset='medium'):
    """The flow algorithm as a function of two grey frames.

    Args:
      name: 'dis', 'farneback' or 'tvl1'.
      preset: for 'dis': 'ultrafast', 'fast' or 'medium'.

    Returns:
      function of (previous, next), both uint8 [H, W], giving float32 [H, W, 2]: where
      each pixel of `previous` goes, x and y in pixels. Not for several threads at once.

    Raises:
      ValueError: the algorithm is unknown or this OpenCV does not have it.
    """
    if name == 'farneback':
        return lambda a, b: cv2.calcOpticalFlowFarneback(a, b, None, **FARNEBACK)
    algorithm = _algorithm(name, preset)
    return lambda a, b: algorithm.calc(a, b, None)


def _algorithm(name, preset):
    """OpenCV's object of DIS or TV-L1; ValueError as `flow_function`."""
    if name == 'dis' and preset in DIS_PRESETS:
        return cv2.DISOpticalFlow_create(DIS_PRESETS[preset])
    if name == 'tvl1':
        if not hasattr(cv2, 'optflow'):
            raise ValueError(
                '--flow=tvl1 needs cv2.optflow: '
                'pip install opencv-contrib-python in place of opencv-python'
            )
        return cv2.optflow.createOptFlow_DualTVL1()
    raise ValueError(f'there is no flow algorithm {name} {preset}')


def flow_parameters(name, preset='medium'):
    """Every number of a flow algorithm, as dict; arguments as of `flow_function`.

    Those of DIS and TV-L1 are asked of OpenCV's object by its get...() methods: a
    preset is what it sets. What an object does not tell must be added here, or a change
    of it is not noticed. In a name, what follows `-` is the preset.
    """
    if name == 'farneback':
        return dict(FARNEBACK)
    algorithm = _algorithm(name, preset)
    getters = [key for key in dir(algorithm) if re.match('get(?!DefaultName)', key)]
    values = {key[3:]: getattr(algorithm, key)() for key in getters}
    # OpenCV has some as float32: 0.01 would read 0.009999999776482582
    return {key: float(f'{v:.6g}') if v != int(v) else v for key, v in values.items()}


def settings_of(name, bound, size):
    """All that the files of a clip depend on, besides its video.

    Args:
      name: the algorithm as in clips.csv, such as 'farneback' or 'dis-medium'.
      bound: flow magnitude in pixels a frame that maps to 1 and 255.
      size: stored height and width.

    Returns:
      (fingerprint, the column `settings` of clips.csv; dict that says it in words).

    Raises:
      ValueError: the algorithm is unknown or this OpenCV does not have it.
    """
    words = {
        'flow': {'algorithm': name, **flow_parameters(*name.split('-'))},
        'bound': float(bound),
        'size': int(size),
        'decoding': decoding.DECODING,
        'resizing': RESIZING,
        'grey': 'COLOR_BGR2GRAY',
        'stored_flow': 'round(v * 127 / bound) + 128, clipped to 1..255',
        'frames_codec': [clips.FRAMES, *clips.FRAMES_CODEC],
        'flow_codec': [clips.FLOW, *clips.FLOW_CODEC],
        'codecs': {'frames': [*clips.FRAMES_CODEC], 'flow': [*clips.FLOW_CODEC]},
    }
    return settings.fingerprint(words), words


def frames_and_flow(frames, preprocessing, with_flow=True):
    """What a clip stores of each frame of a video.

    Args:
      frames: iterable of (seconds, frame), of decoding.Video or a camera.
      preprocessing: dict of `flow` (such as 'dis-medium'), `bound`, `size`.
      with_flow: False saves the time; then, and at the first frame, the field is None.

    Yields:
      (seconds, frame as it is, frame resized uint8 [size, size, 3], field uint8
      [size, size, 2] of the flow that leads to it).
    """
    flow_between = flow_function(*preprocessing['flow'].split('-'))
    previous = None
    for seconds, frame in frames:
        resized, field = resize(frame, preprocessing['size']), None
        if with_flow:
            grey = cv2.cvtColor(resized, cv2.COLOR_BGR2GRAY)
            if previous is not None:
                flow = flow_between(previous, grey)
                field = clips.quantize_flow(flow, preprocessing['bound'])
            previous = grey
        yield seconds, frame, resized, field


def convert(video_dir, data_dir, folder, preprocessing, keep_truncated, task):
    """Makes both files of one clip; runs in a worker.

    Args:
      video_dir, data_dir: the flags.
      folder: for the files while they are not whole.
      preprocessing: dict of the columns `flow`, `bound`, `size` and `settings`.
      keep_truncated: the flag.
      task: (clip, path of the video below `video_dir`).

    Returns:
      The clip's row for clips.csv.
    """
    clip, path = task
    row = {**dict.fromkeys(clips.COLUMNS), 'clip': clip, 'source': path}
    row.update(preprocessing)
    source = os.path.join(video_dir, path)
    temporary = [os.path.join(folder, f'{os.getpid()}-{n}.zip') for n in 'xy']
    try:
        with contextlib.closing(decoding.open_video(source)) as video:
            _write_pair(video, row, *temporary)
            reason = video.truncation()
        if not row['frames'] and (keep_truncated or not video.damaged):
            raise ValueError(f'no frame decodes (codec {video.codec})')
        if reason and not keep_truncated:
            row['status'] = 'truncated'
            raise ValueError(reason)
        if row['frames'] < 2:
            raise ValueError('one frame only, so no flow')
        journal.publish(temporary, data_dir, clip)
        return {**row, 'status': 'ok', 'error': ''}
    except (ValueError, OSError, MemoryError, cv2.error) as error:
        reason = videos.one_line(error, source)
        return {**row, 'status': row['status'] or 'error', 'error': reason}
    finally:
        for file in temporary:
            with contextlib.suppress(FileNotFoundError):
                os.remove(file)


def try_out(video_dir, folder, preprocessing, path):
    """What the first frames of a video take; runs in a worker.

    Args:
      video_dir, folder, preprocessing: as of `convert`.
      path: of the video, below `video_dir`.

    Returns:
      estimate.Trial, or None where that fails.
    """
    source, row = os.path.join(video_dir, path), dict(preprocessing)
    temporary = [os.path.join(folder, f'{os.getpid()}-{n}.zip') for n in 'xy']
    begun = time.perf_counter()

    def first(frames):
        for pair in itertools.islice(frames, estimate.FRAMES):
            yield pair
            if time.perf_counter() - begun > estimate.SECONDS:
                return

    try:
        with contextlib.closing(decoding.open_video(source)) as video:
            _write_pair(video, row, *temporary, first)
            seconds = time.perf_counter() - begun
            size, stored = os.path.getsize(source), sum(map(os.path.getsize, temporary))
            expected = video.expected_frames()
        return estimate.Trial(size, expected, row['frames'], seconds, stored)
    except (ValueError, OSError, MemoryError, cv2.error):
        return None  # the clip itself will say why
    finally:
        for file in temporary:
            with contextlib.suppress(FileNotFoundError):
                os.remove(file)


def _work(video_dir, data_dir, folder, preprocessing, keep_truncated, task):
    """A worker's task: (clip, path, whether its first frames are only tried out)."""
    *task, trial = task
    if trial:
        return try_out(video_dir, folder, preprocessing, task[1])
    return convert(video_dir, data_dir, folder, preprocessing, keep_truncated, task)


def _write_pair(video, row, frames_file, flow_file, first=iter):
    """Streams a video, or its `first` frames, into both files; counts into `row`."""
    row.update(frames=0, header_frames=video.counted, fps=0.0)
    with (
        clips.frames_writer(frames_file) as frames_writer,
        clips.flow_writer(flow_file) as flow_writer,
    ):
        for seconds, frame, resized, field in frames_and_flow(
            first(video.frames()), row
        ):
            frames_writer.append(resized)
            if field is None:
                row['height'], row['width'] = frame.shape[:2]
            else:
                flow_writer.append(field)
            row['frames'] += 1
            last = seconds
    if row['frames'] > 1:
        row['fps'] = round((row['frames'] - 1) / last, 3)


def preprocess(values, bad):
    """Makes every clip that is missing; failures go into `bad`, name to reason."""
    video_dir, data_dir = values.video_dir, values.data_dir
    videos.refuse_nested(video_dir, data_dir)
    part, parts = videos.shard_of_task(
        values.shard, values.worker_hosts, values.task_index
    )
    found = _find(values, part, parts, bad)
    name = f'dis-{values.dis_preset}' if values.flow == 'dis' else values.flow
    preprocessing = {
        'flow': name,
        'bound': values.flow_bound,
        'size': values.frame_size,
    }
    # complains now if this OpenCV does not have the algorithm
    preprocessing['settings'], words = settings_of(*preprocessing.values())
    run = journal.Run(data_dir, preprocessing, words, values.overwrite)
    try:
        absent = [] if values.list else set(run.index) - set(found)
        gone = [clip for clip in absent if videos.in_shard(clip, part, parts)]
        todo = run.begin(found, gone)
        classes = len({clip.split('/')[0] for clip in found})
        print(
            f'{len(found)} videos of {classes} classes, {len(found) - len(todo)} done '
            f'before; flow {name}'
        )
        sizes = {clip: _bytes(video_dir, path) for clip, path in todo.items()}
        trials = estimate.sample([*todo.items()], sizes)
        # Large clips first, so that none is left running alone at the end.
        tasks = sorted(todo.items(), key=lambda task: (-sizes[task[0]], task[0]))
        tasks = [(*task, True) for task in trials] + [(*task, False) for task in tasks]
        arguments = (video_dir, data_dir, run.folder, preprocessing)
        function = functools.partial(_work, *arguments, values.keep_truncated)
        processes = workers.processes(values.workers)
        work = workers.run(function, tasks, processes, run.folder)
        forecast = functools.partial(
            estimate.lines,
            total_bytes=sum(sizes.values()),
            processes=processes,
            data_dir=data_dir,
        )
        rows = _follow(work, run, sizes, len(trials), forecast, bad)
    finally:
        run.close()
    failed = [row for row in rows if row['status'] != 'ok']
    print(f'{len(found) - len(failed)} of {len(found)} clips are ready in {data_dir}')
    disagree = sum(row['header_frames'] not in (None, 0, row['frames']) for row in rows)
    if disagree:
        print(
            f'{disagree} videos: header frame count differs from the decoded count '
            '(clips.csv has both)'
        )


def _find(values, part, parts, bad):
    """The shard's videos, dict from clip to path; folders that fail go into `bad`."""

    def note(error):
        bad[os.path.relpath(error.filename, values.video_dir)] = error.strerror

    others = collections.Counter()
    found = videos.find_videos(values.video_dir, values.list, note, others)
    if others:
        endings = ', '.join(f'{n} {ending}' for ending, n in others.most_common())
        print(f'passed over, by their endings: {videos.printable(endings)}')
    return {clip: p for clip, p in found.items() if videos.in_shard(clip, part, parts)}


def _follow(work, run, sizes, num_trials, forecast, bad):
    """Records what the workers end with, under a progress bar; returns the rows.

    Args:
      work: iterator of `workers.run`, of `num_trials` trials and the clips.
      run: journal.Run.
      sizes: dict from clip to bytes.
      forecast: function of the trials' results, which gives lines to print.
      bad: where failures go, name to reason.
    """
    rows, trials, frames, began = [], [], 0, time.monotonic()
    layout = '{desc}{percentage:3.0f}%|{bar}| {elapsed}{postfix}, {remaining} left'
    bar = tqdm.tqdm(total=sum(sizes.values()), bar_format=layout, disable=None)
    with bar, contextlib.closing(work):
        for task, row, death in work:
            if task[2]:
                trials.append(row)
                if len(trials) == num_trials:
                    for line in forecast(trials):
                        bar.write(line)
                continue
            row = row or {
                **dict.fromkeys(clips.COLUMNS),
                'clip': task[0],
                'source': task[1],
                'status': 'error',
                'error': death,
            }
            if row['status'] != 'ok':
                bad[row['clip']] = row['error']
            run.finish(row)
            rows.append(row)
            frames += row['frames'] or 0
            rate = frames / (time.monotonic() - began)
            bar.set_description_str(f'{len(rows)}/{len(sizes)} clips ', refresh=False)
            bar.set_postfix_str(f'{rate:.0f} frames/s', refresh=False)
            bar.update(sizes[task[0]])
    if rows:
        seconds = time.monotonic() - began
        print(f'{frames:,} frames in {seconds:.0f} s, {frames / seconds:.0f} a second')
    return rows


def _bytes(video_dir, path):
    try:
        return os.path.getsize(os.path.join(video_dir, path))
    except OSError:
        return 0


def main(values):
    """Runs what the flags ask for; returns the exit code."""
    if values['dis_preset'].present and values.flow != 'dis':
        raise ValueError('--dis_preset is for --flow=dis: give that as well')
    if not values.data_dir:
        raise ValueError('--data_dir=FOLDER is missing: where frames and flow go')
    if not (values.video_dir or values.check or values.preview):
        raise ValueError('--video_dir=FOLDER is missing: where the videos are')
    if not videos.is_utf8(values.data_dir):
        raise ValueError(f'--data_dir={values.data_dir} is not UTF-8: choose another')
    signal.signal(signal.SIGINT, _stop)
    signal.signal(signal.SIGTERM, _stop)
    # The reasons people read are in clips.csv, in our words. The workers inherit what
    # is set; here OpenCV has read the first of them already.
    os.environ.setdefault('OPENCV_LOG_LEVEL', 'OFF')
    os.environ.setdefault('OPENCV_FFMPEG_LOGLEVEL', '-8')
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    sys.stdout.reconfigure(errors='backslashreplace')  # folders need not be UTF-8
    bad = {}
    try:
        if values.video_dir:
            preprocess(values, bad)
        index = clips.read_index(values.data_dir, ok_only=False)
        if values.preview:
            bad.update(preview.write_sheets(values.data_dir, index, values.preview))
        if values.check:
            bad.update(
                check.verify(values.data_dir, index, workers.processes(values.workers))
            )
    except KeyboardInterrupt as stop:
        print('\nstopped; the same command continues from here', file=sys.stderr)
        return 128 + stop.args[0]
    finally:  # also where something else fails later
        table = {videos.printable(clip): reason for clip, reason in sorted(bad.items())}
        width = max(map(len, table), default=0)
        for clip, reason in table.items():
            print(f'{clip:{width}}  {videos.printable(reason)}')
    return 1 if bad else 0


def _stop(number, _):
    # Once is enough: a second Ctrl-C must not cut the tidying short.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt(number)


if __name__ == '__main__':
    define_flags()
    command_line.run(main)
