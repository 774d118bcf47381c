"""A run of train.py on videos of any length, from pixels: classes, timeline, overlay.

    python evaluate.py --train_dir=runs/hybrid --video=holiday.mp4 --overlay=out.mp4

A video is cut into windows of --window_seconds, by the times of its frames. Each is
preprocessed as optical_flow.py would (the chosen frames pass through the encoder of
stored clips), sampled and classified like a stored clip, so a video of one window gets
the probabilities that evaluation gives its stored clip. The video's own are the mean
over its windows.
"""

import contextlib
import itertools
import os
import time
from typing import NamedTuple

import cv2
import numpy as np
import tensorflow.compat.v1 as tf
import tqdm

import model
import optical_flow
from data import clips
from data import feeds
from data import sampling
from data.preprocessing import decoding
from data.preprocessing import videos
from results import figures
from results import inference
from results import overlay
from results import runs
from results import tables

# -- videos to windows -----------------------------------------------------------------


def find(given):
    """The videos that one --video names: list of (name of the output, path or camera).

    Raises:
      ValueError: there is nothing of that name, or no video in the folder.
    """
    if given.isdigit() and not os.path.exists(given):
        return [(f'camera{given}', int(given))]
    if os.path.isdir(given):
        found = []
        for folder, subfolders, files in os.walk(given, followlinks=True):
            subfolders[:] = [name for name in subfolders if name[0] != '.']
            for file in sorted(files):
                if videos.is_video(file):
                    path = os.path.join(folder, file)
                    found.append((os.path.relpath(path, given), path))
        if not found:
            raise ValueError(f'--video={given}: no videos in this folder')
        return sorted(found)
    return [(os.path.basename(given), given)]


def window_clip(window):
    """A window as `sampling.Clip`: its frames pass through the codec of stored clips.

    Args:
      window: list of (frame uint8 [H, W, 3], field uint8 [H, W, 2] or None), where the
        field leads to the frame.

    Raises:
      ValueError: the window has one frame only.
    """
    if len(window) < 2:
        raise ValueError('one frame only, so no flow')

    def read_frames(starts):
        return clips.as_stored([window[start][0] for start in starts])

    def read_stacks(starts, length):
        flow = np.stack([field for _, field in window[1:]])
        return clips.flow_stacks(flow, starts, length)

    return sampling.Clip(len(window), read_frames, read_stacks)


# -- prediction ------------------------------------------------------------------------


class Options(NamedTuple):
    """How videos are classified and what is drawn of them, as the flags say."""

    window_seconds: float = 10.0
    window_stride: float = None  # seconds; None for the length of a window
    keep_truncated: bool = False
    overlay: str = None  # path of an .mp4 to write
    explain: bool = False
    unknown_below: float = None  # probability below which no class is named


def predict_windows(net, run, frames, options, num_segments):
    """Classifies the windows of a video one by one, in bounded memory.

    Args:
      net: from `inference.network`.
      run: the content of run.json.
      frames: iterable of (seconds, frame) of a video or camera.
      options: Options.
      num_segments: samples of a window, T.

    Yields:
      (sampling.Window, pixels, probabilities float [C]).

    Raises:
      ValueError: a window has one frame only, or the network no finite answer.
    """
    streams = {name: s for name, s in model.STREAMS.items() if name in net.inputs}
    with_flow = any(stream.flow for stream in streams.values())
    items = (
        (seconds, (resized, field))
        for seconds, _, resized, field in optical_flow.frames_and_flow(
            frames, run['preprocessing'], with_flow
        )
    )
    stack_length, length = run['flags']['stack_length'], options.window_seconds
    stride = options.window_stride or length
    for window in sampling.sliding_windows(items, length, stride):
        clip = window_clip(window.items)
        pixels = feeds.segments(clip, streams, num_segments, stack_length)
        feed = inference.feed_of(net, pixels)
        (probabilities,) = net.session.run(net.probabilities, feed)
        if not np.isfinite(probabilities).all():
            raise ValueError(
                'the network gives no finite probability: its training diverged, so '
                'train again with a lower --learning_rate'
            )
        yield window, pixels, probabilities


def predict_video(net, run, source, num_segments, options):
    """Classifies one video or camera.

    Args:
      net: from `inference.network`.
      run: the content of run.json.
      source: path, or number of a camera, which runs until Ctrl-C.
      num_segments: samples of a window.
      options: Options.

    Returns:
      (result, JSON-able; pixels of the window that is most certain, its label).

    Raises:
      ValueError: the video cannot be read, or breaks off.
    """
    begun = time.perf_counter()
    with contextlib.ExitStack() as stack:
        if isinstance(source, int):
            video, frames = None, decoding.camera_frames(source)
        else:
            video = decoding.open_video(source)
            stack.callback(video.close)
            frames = video.frames()
        timeline, mean, count, best = classify(
            net, run, frames, num_segments, options, video
        )
        reason = video.truncation() if video and not options.keep_truncated else ''
    if reason or not timeline:
        raise ValueError(reason or 'no frame decodes')
    taken, lasts = time.perf_counter() - begun, timeline[-1]['to_seconds']
    ranked = tables.five_best(mean, run['class_names'])
    result = {
        'video': str(source),
        'answer': tables.answer(ranked, options.unknown_below),
        'frames': count,
        'seconds': lasts,
        'frames_per_second': count / lasts,
        'best': ranked,
        'timeline': timeline,
        'seconds_taken': taken,
        'real_time_factor': taken / lasts,
    }
    return result, *best


def classify(net, run, frames, num_segments, options, video=None):
    """Classifies all windows of a video or camera, under a progress bar.

    Args:
      net, run, frames, num_segments, options: as of `predict_windows`.
      video: decoding.Video; None for a camera, whose windows are printed as they come,
        until Ctrl-C.

    Returns:
      (list of windows, JSON-able; mean probabilities [C]; frames; (pixels of the window
      that is most certain, its label)).
    """
    timeline, total, count, best = [], 0, 0, (0, None, None)
    expected = video.expected_frames() or None if video else None
    progress = tqdm.tqdm(None, total=expected, unit='frame', leave=False, disable=None)
    try:
        for window, pixels, probabilities in predict_windows(
            net, run, frames, options, num_segments
        ):
            progress.update(window.first + len(window.items) - count)
            count = window.first + len(window.items)
            total = total + probabilities
            label = int(probabilities.argmax())
            if probabilities[label] > best[0]:
                best = (probabilities[label], pixels, label)
            ranked = tables.five_best(probabilities, run['class_names'])
            said = {
                'from_seconds': window.from_seconds,
                'to_seconds': window.to_seconds,
                'answer': tables.answer(ranked, options.unknown_below),
                'best': ranked,
            }
            timeline.append(said)
            if not video:
                print(moment([said]), flush=True)
    except KeyboardInterrupt:
        if video or not timeline:
            raise
    finally:
        progress.close()
    return timeline, total / max(1, len(timeline)), count, best[1:]


def moment(windows):
    """Windows that follow each other and have the same answer as a line of text."""
    name = windows[0]['answer']
    probability = np.mean([window['best'][0][1] for window in windows])
    return (
        f'{windows[0]["from_seconds"]:8.1f} s to {windows[-1]["to_seconds"]:.1f} s  '
        f'{probability:6.1%}  {name}'
    )


def print_prediction(result):
    """Prints a video's five best classes, its timeline and how fast it went."""
    frames = result['frames']
    video = videos.printable(result['video'])
    print(f'{video}: {frames:,} frames, {result["seconds"]:.1f} s')
    if result['answer'] == tables.UNKNOWN:
        print(f'  {tables.UNKNOWN}; the most probable classes are')
    for name, probability in result['best']:
        print(f'  {probability:6.1%}  {name}')
    if len(result['timeline']) > 1:
        for _, same in itertools.groupby(result['timeline'], lambda w: w['answer']):
            print(moment(list(same)))
    taken = result['seconds_taken']
    print(
        f'  {taken:.1f} s, {frames / taken:.0f} frames a second, real-time factor '
        f'{result["real_time_factor"]:.2f} (below 1: faster than it plays)'
    )


def check_sources(given, options):
    """The videos that --video names, each of which writes one JSON file.

    Args:
      given: list of files, folders and camera numbers.
      options: Options.

    Returns:
      dict name of the output -> path or camera.

    Raises:
      ValueError: a flag is wrong, or no video is where it says.
    """
    found = {}
    for name, source in (pair for each in given for pair in find(each)):
        if found.setdefault(name, source) != source:
            raise ValueError(
                f'--video: {found[name]} and {source} would both write {name}.json: '
                'take one at a time, each with its own --out_dir'
            )
    is_file = [isinstance(source, str) for source in found.values()]
    if options.overlay and is_file != [True]:
        raise ValueError(
            f'--overlay={options.overlay} needs one --video that is a file'
        )
    if options.overlay and not options.overlay.lower().endswith('.mp4'):
        raise ValueError(f'--overlay={options.overlay}: name an .mp4')
    if (options.window_stride or 0) > options.window_seconds:
        raise ValueError(
            f'--window_stride={options.window_stride} would leave frames out: at most '
            f'--window_seconds={options.window_seconds}'
        )
    return found


def check_preprocessing(made):
    """Raises ValueError where a video would be preprocessed otherwise than the clips
    that the run was trained on: `made` is the run's preprocessing."""
    now, _ = optical_flow.settings_of(made['flow'], made['bound'], made['size'])
    if now != made['settings']:
        raise ValueError(
            f'--video: the run was trained on clips of settings {made["settings"]}, '
            f'this optical_flow.py makes {now}: put its numbers back (they are in '
            '<data_dir>/settings/), or preprocess and train again'
        )


def predict_videos(run, checkpoint, given, out_dir, num_segments=None, options=None):
    """Classifies videos and writes a JSON file for each.

    A bad video among good ones is listed with its reason, the good ones are finished.

    Args:
      run: the content of run.json.
      checkpoint: the run's.
      given: list of files, folders and camera numbers.
      out_dir: folder to write to.
      num_segments: samples of a window, T; None for the run's.
      options: Options.

    Returns:
      The exit code: 1 where a video failed.

    Raises:
      ValueError: a flag is wrong, or no video is where it says.
    """
    options = options or Options()
    num_segments = num_segments or run['flags']['num_segments']
    found, failed = check_sources(given, options), {}
    check_preprocessing(run['preprocessing'])
    # DIS answers differ with the number of threads; stored clips were made with one
    cv2.setNumThreads(1)
    with tf.Graph().as_default(), tf.Session() as session:
        net = inference.network(session, run, checkpoint, options.explain)
        for name, source in found.items():
            out = os.path.join(out_dir, name)
            try:
                result, pixels, label = predict_video(
                    net, run, source, num_segments, options
                )
                os.makedirs(os.path.dirname(out), exist_ok=True)
                write_result(out, result)
                if options.overlay:
                    timeline, made = result['timeline'], run['preprocessing']
                    overlay.write(options.overlay, source, timeline, made)
                    print(f'  {options.overlay}')
                if options.explain:
                    explain(f'{out}_explain.png', net, run, pixels, label)
            except (ValueError, OSError, cv2.error) as error:
                named = source if isinstance(source, str) else f'--video={source}'
                failed[name] = f'{named}: {videos.one_line(error, source)}'
    for reason in failed.values():
        print(videos.printable(reason))
    if failed:
        print(f'{len(failed)} of {len(found)} videos failed')
    return 1 if failed else 0


def write_result(out, result):
    """Writes <out>.json, and a timeline where there are several windows; prints it."""
    runs.write_json(f'{out}.json', result)
    several = len(result['timeline']) > 1
    if several:
        figures.draw_timeline(f'{out}_timeline.png', result)
    print_prediction(result)
    print(f'  {out}.json')
    if several:
        print(f'  {out}_timeline.png')


def explain(path, net, run, pixels, label):
    """Draws where the CNNs see a class.

    Args:
      path: .png to write.
      net: from `inference.network`, with maps.
      run: the content of run.json.
      pixels: dict stream -> uint8 [T, H, W, channels] of one window.
      label: the class.
    """
    feed = {**inference.feed_of(net, pixels), net.label: label}
    maps = net.session.run(net.maps, feed)
    figures.draw_explanation(path, pixels, maps, run['class_names'][label])
    print(f'  {path}')
