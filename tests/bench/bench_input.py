"""How fast stored clips are written and read, as ratios within one run.

    python -m tests.bench.bench_input --clips=FOLDER

FOLDER holds videos in class folders, or ucf101-sample/; without it, videos are drawn
(their images are easier on the codecs than real footage, so only real clips give
figures worth printing). The same frames and flow are stored in each of these ways:

    archive      data/clips.py: JPEG and PNG images in one ZIP file a clip and stream
    video        Motion JPEG and FFV1 in AVI, read with cv2.VideoCapture and its seek
    JPEG tree    a file an image, flow as two of them, quality 95, read by cv2.imread
    same tree    a file an image, in the codecs of data/clips.py, read by cv2.imread
    decoding     the images of the archive in memory: cv2.imdecode and nothing else

Each round asks every way for the same images, in random order. Times are of the
processor, all threads of this process together, so that what else runs counts little;
medians are compared. Only the rates by threads are by the clock. The last figure is the
processor time of CNN-M-2048 training steps that read their batch, against steps with a
batch that is there already.
"""

import collections
import concurrent.futures
import itertools
import os
import pathlib
import statistics
import sys
import tempfile
import time
import zipfile

import cv2
import numpy as np
from absl import flags

from results import command_line

with command_line.tensorflow_in_silence():
    import tensorflow.compat.v1 as tf

import cnnm
import optical_flow
from data import clips
from data.preprocessing import decoding
from data.preprocessing import videos
from data.synthetic import draw
from tests.bench import table

SIZE, LENGTH, STEPS = clips.FRAME_SIZE, 10, 25
QUALITY = [cv2.IMWRITE_JPEG_QUALITY, 95]
TASKS = ('random frame', 'even frames', 'random stack', 'even stacks')
# how many times as fast as the video the archive must be
AT_LEAST = {'random frame': 8, 'random stack': 4, 'even stacks': 2}
AT_MOST = 1.3  # times the decoding
THREADS = (1, 2, 4)
BATCH = 16

# A way to read: frames(clip, places) -> list of [H, W, 3], and planes(clip, places) ->
# list of (x, y), each [H, W], the fields of flow.
Way = collections.namedtuple('Way', 'frames planes')


def source(folder, scratch):
    """The folder of videos: in `folder`, or where it is '' drawn in `scratch`."""
    if not folder:
        draw.make(scratch / 'videos', groups=2, clips=1, seed=0)
        return scratch / 'videos'
    sample = pathlib.Path(folder, 'ucf101-sample', 'videos')
    return sample if sample.is_dir() else pathlib.Path(folder)


def choose(video_dir, count):
    """`count` videos spread over the folder, long enough for a stack: their paths."""
    paths = [
        os.path.join(video_dir, path)
        for path in sorted(videos.find_videos(str(video_dir)).values())
    ]
    order = np.random.default_rng(0).permutation(len(paths))
    counts = (cv2.VideoCapture(paths[n]).get(cv2.CAP_PROP_FRAME_COUNT) for n in order)
    long = (paths[n] for n, c in zip(order, counts, strict=True) if c > 2 * LENGTH)
    return list(itertools.islice(long, count))


# -- the ways to store ----------------------------------------------------------------


def open_videos(folder, clip):
    """The two AVI writers that clips were stored with before they were archives."""
    code, size = cv2.VideoWriter_fourcc, (SIZE, SIZE)
    kinds = {
        'frames': (cv2.CAP_OPENCV_MJPEG, code(*'MJPG'), 25, size, True),
        'flow': (cv2.CAP_FFMPEG, code(*'FFV1'), 25, (2 * SIZE, SIZE), False),
    }
    return [
        cv2.VideoWriter(str(folder / f'{clip}-{kind}.avi'), *words)
        for kind, words in kinds.items()
    ]


def write_trees(jpeg, same, number, frame, field):
    """The images of one step in both trees; `field` is None at the first frame."""
    cv2.imwrite(f'{jpeg}/{number:05}.jpg', frame, QUALITY)
    cv2.imwrite(f'{same}/{number:05}.jpg', frame, clips.FRAMES_CODEC)
    if field is not None:
        x, y = field[:, :, 0], field[:, :, 1]
        cv2.imwrite(f'{jpeg}/x{number - 1:05}.jpg', x, QUALITY)
        cv2.imwrite(f'{jpeg}/y{number - 1:05}.jpg', y, QUALITY)
        image = np.concatenate([x, y], axis=1)
        cv2.imwrite(f'{same}/{number - 1:05}.png', image, clips.FLOW_CODEC)


def store(video, folder, clip, flow, took):
    """Stores one clip in every way.

    Args:
      video: path of the video.
      folder: pathlib.Path to store in.
      clip: 'Class/stem' of the archive.
      flow: algorithm, such as 'dis-medium'.
      took: dict from what is written to the seconds of each image, appended to.

    Returns:
      Its frames, T.
    """
    jpeg, same = folder / 'jpeg' / clip, folder / 'same' / clip
    paths = clips.frames_path(folder, clip), clips.flow_path(folder, clip)
    for path in (jpeg, same, folder / 'video' / clip):
        path.mkdir(parents=True)
    for path in paths:
        os.makedirs(os.path.dirname(path), exist_ok=True)
    settings = {'flow': flow, 'bound': clips.FLOW_BOUND, 'size': SIZE}
    mjpg, ffv1 = open_videos(folder / 'video' / clip, 'x')
    items = optical_flow.frames_and_flow(decoding.open_video(video).frames(), settings)

    def write_field(field):
        ffv1.write(np.concatenate([field[:, :, 0], field[:, :, 1]], axis=1))

    with clips.frames_writer(paths[0]) as frames, clips.flow_writer(paths[1]) as fields:
        for number, (_, _, frame, field) in enumerate(items):
            writes = [
                ('archive frame', frames.append, frame),
                ('video frame', mjpg.write, frame),
            ]
            if field is not None:
                writes.append(('archive field', fields.append, field))
                writes.append(('video field', write_field, field))
            # the one that comes first finds the image in no cache
            for what, write, image in writes[:: 1 if number % 2 else -1]:
                began = time.process_time()
                write(image)
                took[what].append(time.process_time() - began)
            write_trees(jpeg, same, number, frame, field)
    mjpg.release()
    ffv1.release()
    return number + 1


# -- the ways to read -----------------------------------------------------------------


def read_video(path, places):
    """Images of an AVI file by number, with a seek over more than 16 of them."""
    capture, position, images = cv2.VideoCapture(path, cv2.CAP_FFMPEG), 0, {}
    for place in sorted(set(places)):
        if place - position > 16:
            capture.set(cv2.CAP_PROP_POS_FRAMES, float(place))
            position = place
        while position < place:
            capture.grab()
            position += 1
        images[place] = capture.read()[1]
        position += 1
    return [images[place] for place in places]


def halves(images):
    return [(image[:, :SIZE], image[:, SIZE:]) for image in images]


def members(folder, rows):
    """Every image of the archives: dict (clip, ending, place) -> uint8 [n]."""
    found = {}
    for clip in rows:
        for path in (clips.frames_path(folder, clip), clips.flow_path(folder, clip)):
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    data = np.frombuffer(archive.read(name), np.uint8)
                    found[clip, name[-4:], int(name[:-4])] = data
    return found


def ways(folder, rows):
    """dict of the name of each way but the archive to a `Way`."""
    encoded = members(folder, rows)
    grey = cv2.IMREAD_GRAYSCALE

    def tree(kind, clip, template, places, flag=cv2.IMREAD_COLOR):
        paths = [f'{folder}/{kind}/{clip}/{template.format(p)}' for p in places]
        return [cv2.imread(path, flag) for path in paths]

    def video_flow(clip, places):
        images = read_video(f'{folder}/video/{clip}/x-flow.avi', places)
        return halves([image[:, :, 0] for image in images])

    def jpeg_planes(clip, places):
        x, y = (tree('jpeg', clip, axis + '{:05}.jpg', places, grey) for axis in 'xy')
        return list(zip(x, y, strict=True))

    def decoded(clip, ending, places, flag):
        return [cv2.imdecode(encoded[clip, ending, place], flag) for place in places]

    return {
        'video': Way(
            lambda clip, p: read_video(f'{folder}/video/{clip}/x-frames.avi', p),
            video_flow,
        ),
        'JPEG tree': Way(lambda c, p: tree('jpeg', c, '{:05}.jpg', p), jpeg_planes),
        'same tree': Way(
            lambda c, p: tree('same', c, '{:05}.jpg', p),
            lambda c, p: halves(tree('same', c, '{:05}.png', p, grey)),
        ),
        'decoding': Way(
            lambda c, p: decoded(c, '.jpg', p, cv2.IMREAD_COLOR),
            lambda c, p: halves(decoded(c, '.png', p, grey)),
        ),
    }


def stacks_of(planes, clip, starts):
    """uint8 [n, H, W, 2L] out of a way's planes, each field read once."""
    fields = [range(start, start + LENGTH) for start in starts]
    wanted = sorted(set(itertools.chain(*fields)))
    found = dict(zip(wanted, planes(clip, wanted), strict=True))
    return np.stack(
        [cv2.merge([plane for f in chosen for plane in found[f]]) for chosen in fields]
    )


def tasks_of(folder, name, way):
    """dict task -> function (clip, place, frames of the clip) that reads for it."""
    if name == 'archive':

        def frames(clip, places):
            return clips.read_frames(folder, clip, places)

        def stacks(clip, starts):
            return clips.read_stacks(folder, clip, starts, LENGTH)

    else:

        def frames(clip, places):
            images = way.frames(clip, places)
            # what decoding alone gives need not be brought together
            return images if name == 'decoding' else np.stack(images)

        def stacks(clip, starts):
            if name == 'decoding':
                fields = {s + k for s in starts for k in range(LENGTH)}
                return way.planes(clip, sorted(fields))
            return stacks_of(way.planes, clip, starts)

    def even(count, last):
        return np.rint(np.linspace(0, last, count)).astype(int).tolist()

    return {
        'random frame': lambda clip, place, _: frames(clip, [place]),
        'even frames': lambda clip, _, count: frames(clip, even(STEPS, count - 1)),
        'random stack': lambda clip, place, _: stacks(clip, [place]),
        'even stacks': lambda clip, _, count: stacks(
            clip, even(STEPS, count - 1 - LENGTH)
        ),
    }


# -- measuring ------------------------------------------------------------------------


def rounds_of(readers, rows, rounds):
    """Processor milliseconds of each task by each way, dict (task, way) -> list."""
    took = collections.defaultdict(list)
    random = np.random.default_rng(1)
    # A video decoder leaves no cache as it was, which doubles the price of whatever
    # comes next: in each round the videos are read before all others.
    groups = ['video'], [name for name in readers if name != 'video']
    for task, _, names in itertools.product(TASKS, range(rounds), groups):
        for clip, count in rows.items():
            place = int(random.integers(count - LENGTH))
            for name in random.permutation(names):
                began = time.process_time()
                readers[name][task](clip, place, count)
                took[task, name].append(1000 * (time.process_time() - began))
    return took


def print_reading(took, names):
    """The table of reading times and what they are against each other, as medians."""
    for task in ('random stack', 'even stacks'):
        seconds = {n: [ms / 1000 for ms in took[task, n]] for n in names}
        table.row(
            f'reading a clip, {task}, {SIZE} pixels',
            *(seconds['archive'], 'a video of it', seconds['video']),
            *('decoding from memory', seconds['decoding']),
        )
    took = {key: statistics.median(values) for key, values in took.items()}
    print(f'\n{"processor ms":14}' + ''.join(f'{name:>12}' for name in names))
    for task in TASKS:
        row = ''.join(f'{took[task, name]:12.3f}' for name in names)
        print(f'{task:14}{row}')
    for task in TASKS:
        ours = took[task, 'archive']
        ratio = {name: took[task, name] / ours for name in names}
        aim = f' (at least {AT_LEAST[task]})' if task in AT_LEAST else ''
        print(
            f'{task}: {ratio["video"]:.1f} times as fast as the video{aim}, '
            f'{1 / ratio["decoding"]:.2f} of decoding (at most {AT_MOST}), '
            f'{1 / ratio["JPEG tree"]:.2f} of the JPEG tree, '
            f'{1 / ratio["same tree"]:.2f} of the tree in the same codec'
        )


def print_threads(readers, rows, rounds):
    """Random stacks a second by number of threads."""
    print('\nrandom stacks a second, by threads')
    random = np.random.default_rng(2)
    rates = collections.defaultdict(list)
    for _ in range(rounds):
        wanted = [
            (clip, int(random.integers(count - LENGTH)), count)
            for clip, count in rows.items()
            for _ in range(4)
        ]
        for threads, (name, reader) in itertools.product(THREADS, readers.items()):
            with concurrent.futures.ThreadPoolExecutor(threads) as pool:
                began = time.perf_counter()
                list(pool.map(lambda w, r=reader: r['random stack'](*w), wanted))
                seconds = time.perf_counter() - began
            rates[name, threads].append(len(wanted) / seconds)
    for name in readers:
        found = [statistics.median(rates[name, threads]) for threads in THREADS]
        print(f'{name:14}' + ''.join(f'{rate:10.0f}' for rate in found))


def print_storage(folder, rows, took):
    """Bytes and milliseconds an image, and what is lost, by way of storing."""
    frames, fields = sum(rows.values()), sum(rows.values()) - len(rows)
    print(f'\n{"":16}{"write ms":>10}{"kB":>8}')
    sizes = {
        'archive frame': [clips.frames_path(folder, clip) for clip in rows],
        'archive field': [clips.flow_path(folder, clip) for clip in rows],
        'video frame': [f'{folder}/video/{clip}/x-frames.avi' for clip in rows],
        'video field': [f'{folder}/video/{clip}/x-flow.avi' for clip in rows],
    }
    total = collections.Counter()
    for what, paths in sizes.items():
        count = frames if what.endswith('frame') else fields
        size = sum(map(os.path.getsize, paths))
        total[what.split()[0]] += size
        written = 1000 * statistics.median(took[what])
        print(f'{what:16}{written:10.2f}{size / count / 1000:8.1f}')
    print(
        f'disk: {total["archive"] / total["video"]:.2f} times the video (at most 1.4)'
    )


def print_fidelity(folder, paths, others):
    """How near the stored frames are to the resized ones."""
    decibels = collections.defaultdict(list)
    for clip, path in paths.items():
        frames = decoding.open_video(path).frames()
        exact = np.stack([optical_flow.resize(frame, SIZE) for _, frame in frames])
        stored = clips.read_frames(folder, clip)
        decibels['archive'].append(cv2.PSNR(stored, exact))
        stored = np.stack(others['video'].frames(clip, range(len(exact))))
        decibels['video'].append(cv2.PSNR(stored, exact))
    for name, found in decibels.items():
        print(
            f'frames, {name}: {statistics.median(found):.1f} dB as a median over '
            f'clips, {min(found):.1f} at worst'
        )


# -- training -------------------------------------------------------------------------


def training(steps, read):
    """Processor seconds of training steps, with read batches and with a fixed one.

    Args:
      steps: of each kind; a fixed one and one that reads take turns.
      read: function of a step that gives uint8 [BATCH, H, W, 2L].

    Returns:
      (medians: of a step with a fixed batch, of one that reads, of reading alone).
    """
    fixed, reading, alone = [], [], []
    with tf.Graph().as_default(), tf.Session() as session:
        tf.set_random_seed(0)
        stacks = tf.placeholder(tf.uint8, [None, SIZE, SIZE, 2 * LENGTH])
        logits, _ = cnnm.cnn_m_2048(stacks, num_classes=101, norm2=False)
        labels = np.arange(BATCH) % 101
        loss = tf.losses.sparse_softmax_cross_entropy(labels, logits)
        train_op = tf.train.MomentumOptimizer(1e-4, 0.9).minimize(loss)
        session.run(tf.global_variables_initializer())
        batch = read(0)
        session.run(train_op, {stacks: batch})
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            for step in range(1, steps + 1):
                began = time.process_time()
                session.run(train_op, {stacks: batch})
                middle = time.process_time()
                ahead = pool.submit(read, step)  # while the step is computed
                session.run(train_op, {stacks: batch})
                ahead.result()
                end = time.process_time()
                read(step)
                fixed.append(middle - began)
                reading.append(end - middle)
                alone.append(time.process_time() - end)
    return tuple(map(statistics.median, (fixed, reading, alone)))


def print_training(folder, rows, steps):
    """What reading adds to the processor time of a CNN-M training step."""
    random, names = np.random.default_rng(3), list(rows)

    def read(_):
        chosen = random.choice(len(names), BATCH)
        found = [
            clips.read_stacks(
                folder, names[n], [random.integers(rows[names[n]] - LENGTH)], LENGTH
            )
            for n in chosen
        ]
        return np.concatenate(found)

    fixed, reading, alone = training(steps, read)
    print(
        f'\nCNN-M-2048 step, B {BATCH}, processor seconds: {fixed:.2f} with a fixed '
        f'batch, {reading:.2f} with reading, {reading / fixed - 1:+.1%}; reading alone '
        f'{alone:.3f}, {alone / fixed:.1%} (at most 3 %)'
    )


def main(video_dir, values, scratch):
    """Stores the clips in every way, measures and prints."""
    cv2.setNumThreads(1)
    chosen = choose(video_dir, values.count)
    paths = {f'A/{n:03}': path for n, path in enumerate(chosen)}
    took = collections.defaultdict(list)
    rows = {c: store(p, scratch, c, values.flow, took) for c, p in paths.items()}
    others = ways(scratch, rows)
    names = ['archive', *others]
    readers = {name: tasks_of(scratch, name, others.get(name)) for name in names}
    print(f'{len(rows)} clips, {sum(rows.values()):,} frames, flow {values.flow}')
    print_storage(scratch, rows, took)
    print_fidelity(scratch, paths, others)
    print_reading(rounds_of(readers, rows, values.rounds), names)
    print_threads(readers, rows, values.rounds)
    if values.steps:
        print_training(scratch, rows, values.steps)


if __name__ == '__main__':
    flags.DEFINE_string('clips', '', 'Folder of real videos in class folders.')
    flags.DEFINE_integer('count', 12, 'Clips that are stored and read.', 1)
    flags.DEFINE_string('flow', 'farneback', 'Algorithm, such as dis-medium.')
    flags.DEFINE_integer('rounds', 5, 'Rounds whose medians are compared.', 1)
    flags.DEFINE_integer('steps', 8, 'Training steps of each kind; 0 for none.', 0)
    flags.FLAGS(sys.argv)
    with tempfile.TemporaryDirectory() as name:
        place = pathlib.Path(name)
        main(source(flags.FLAGS.clips, place), flags.FLAGS, place)
