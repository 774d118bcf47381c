"""A run of train.py on videos of any length, from pixels: classes, timeline, overlay.

    python evaluate.py --train_dir=runs/hybrid --video=holiday.mp4 --overlay=out.mp4

A video is cut into windows of --window_seconds. Each is preprocessed as optical_flow.py
would (the chosen frames pass through the encoder of stored clips), sampled and
classified like a stored clip, so a video of one window gets the probabilities that
evaluation gives its stored clip. The video's own are the mean over its windows.
"""

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
from data.preprocessing import videos
from results import figures
from results import inference
from results import runs
from results import tables

USUAL_RATE = 25.0  # frames a second, where a video or camera does not say


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
        for folder, _, files in os.walk(given, followlinks=True):
            for file in sorted(files):
                if file.lower().endswith(videos.VIDEO_EXTENSIONS):
                    path = os.path.join(folder, file)
                    found.append((os.path.relpath(path, given), path))
        if not found:
            raise ValueError(f'--video={given}: no videos in this folder')
        return sorted(found)
    return [(os.path.basename(given), given)]


def open_source(source):
    """Opens a video file or camera; returns (capture, frames or None, rate).

    Raises:
      ValueError, OSError: it cannot be opened; gives the reason.
    """
    if isinstance(source, int):
        capture, frames = cv2.VideoCapture(source), None
        if not capture.isOpened():
            raise ValueError('there is no such camera')
    else:
        capture = videos.open_video(source)
        frames = max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT))) or None
    rate = capture.get(cv2.CAP_PROP_FPS)
    return capture, frames, rate if 1 <= rate <= 1000 else USUAL_RATE


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
    overlay: str = None  # path of a video to write
    explain: bool = False


def predict_windows(net, run, capture, length, stride, num_segments):
    """Classifies the windows of an opened video one by one, in bounded memory.

    Args:
      net: from `inference.network`.
      run: the content of run.json.
      capture: an opened video or camera.
      length, stride: frames.
      num_segments: samples of a window, T.

    Yields:
      (first frame, frames, pixels, probabilities float [C]).

    Raises:
      ValueError: a window has one frame only, or the network no finite answer.
    """
    streams = {name: s for name, s in model.STREAMS.items() if name in net.inputs}
    with_flow = any(stream.flow for stream in streams.values())
    items = (
        (resized, field)
        for _, resized, field in optical_flow.frames_and_flow(
            capture, run['preprocessing'], with_flow
        )
    )
    stack_length = run['flags']['stack_length']
    for first, window in sampling.sliding_windows(items, length, stride):
        clip = window_clip(window)
        pixels = feeds.segments(clip, streams, num_segments, stack_length)
        feed = inference.feed_of(net, pixels)
        (probabilities,) = net.session.run(net.probabilities, feed)
        if not np.isfinite(probabilities).all():
            raise ValueError(
                'the network gives no finite probability: its training diverged, so '
                'train again with a lower --learning_rate'
            )
        yield first, len(window), pixels, probabilities


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
    capture, header_frames, rate = open_source(source)
    length = max(2, round(options.window_seconds * rate))
    stride = max(1, round((options.window_stride or options.window_seconds) * rate))
    names, live = run['class_names'], isinstance(source, int)
    timeline, total, best, frames = [], 0, (0, None, None), 0
    begun = time.perf_counter()
    progress = tqdm.tqdm(
        None, str(source), header_frames, unit='frame', leave=False, disable=None
    )
    try:
        for first, count, pixels, probabilities in predict_windows(
            net, run, capture, length, stride, num_segments
        ):
            progress.update(first + count - frames)
            frames = first + count
            total = total + probabilities
            label = int(probabilities.argmax())
            if probabilities[label] > best[0]:
                best = (probabilities[label], pixels, label)
            window = {
                'from_seconds': first / rate,
                'to_seconds': frames / rate,
                'best': tables.five_best(probabilities, names),
            }
            timeline.append(window)
            if live:
                print(moment([window]), flush=True)
    except KeyboardInterrupt:
        if not live or not timeline:
            raise
    finally:
        progress.close()
        capture.release()
    if not frames:
        raise ValueError('no frame decodes')
    if not (live or options.keep_truncated):
        reason = videos.truncation(source, frames, header_frames or 0)
        if reason:
            raise ValueError(reason)
    seconds = time.perf_counter() - begun
    result = {
        'video': str(source),
        'frames': frames,
        'frames_per_second': rate,
        'best': tables.five_best(total / len(timeline), names),
        'timeline': timeline,
        'seconds_taken': seconds,
        'real_time_factor': seconds / (frames / rate),
    }
    return result, *best[1:]


def moment(windows):
    """Windows that follow each other and have the same best class as a line of text."""
    name, _ = windows[0]['best'][0]
    probability = np.mean([window['best'][0][1] for window in windows])
    return (
        f'{windows[0]["from_seconds"]:8.1f} s to {windows[-1]["to_seconds"]:.1f} s  '
        f'{probability:6.1%}  {name}'
    )


def print_prediction(result):
    """Prints a video's five best classes, its timeline and how fast it went."""
    frames, rate = result['frames'], result['frames_per_second']
    video = videos.printable(result['video'])
    print(f'{video}: {frames:,} frames, {frames / rate:.1f} s')
    for name, probability in result['best']:
        print(f'  {probability:6.1%}  {name}')
    if len(result['timeline']) > 1:
        for _, same in itertools.groupby(result['timeline'], lambda w: w['best'][0][0]):
            print(moment(list(same)))
    taken = result['seconds_taken']
    print(
        f'  {taken:.1f} s, {frames / taken:.0f} frames a second, real-time factor '
        f'{result["real_time_factor"]:.2f} (below 1: faster than it plays)'
    )


def write_overlay(path, source, timeline, preprocessing):
    """Writes the video again with class, probability and flow drawn in.

    Reads the video a second time: its frames as they are do not fit in memory.

    Args:
      path: .mp4 or .avi to write.
      source: path of the video.
      timeline: as `predict_video` gives it.
      preprocessing: {'flow', 'bound', 'size'} of the run.

    Raises:
      ValueError: the file cannot be written.
    """
    capture, _, rate = open_source(source)
    writer, place = None, 0
    fourcc = cv2.VideoWriter_fourcc(*('mp4v' if path.endswith('.mp4') else 'MJPG'))
    items = optical_flow.frames_and_flow(capture, preprocessing)
    for number, (frame, _, field) in enumerate(items):
        if writer is None:
            size = frame.shape[1::-1]
            writer = cv2.VideoWriter(path, cv2.CAP_FFMPEG, fourcc, rate, size)
            if not writer.isOpened():
                raise ValueError(f'--overlay={path} cannot be written: name an .mp4')
        while timeline[place]['to_seconds'] <= number / rate and timeline[place + 1 :]:
            place += 1
        (name, probability), *_ = timeline[place]['best']
        figures.draw_overlay(frame, name, probability, field, preprocessing['bound'])
        writer.write(frame)
    writer.release()


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
    if (options.window_stride or 0) > options.window_seconds:
        raise ValueError(
            f'--window_stride={options.window_stride} would leave frames out: at most '
            f'--window_seconds={options.window_seconds}'
        )
    return found


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
                    write_overlay(options.overlay, source, timeline, made)
                    print(f'  {options.overlay}')
                if options.explain:
                    explain(f'{out}_explain.png', net, run, pixels, label)
            except (ValueError, OSError, cv2.error) as error:
                named = source if isinstance(source, str) else f'--video={source}'
                failed[name] = f'{named}: {optical_flow.one_line(error, source)}'
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
