"""What is told of a training: log.jsonl, TensorBoard and the progress bar.

    log = summaries.Log(train_dir, graph, range(first, total), 'hybrid')
    log.step({'step': 10, 'loss': 1.5}, clips=320)

Images are encoded outside the graph, so that the graph shows the method alone.
"""

import contextlib
import io
import json
import os
import socket
import time

import cv2
import numpy as np
import tensorflow.compat.v1 as tf
import tqdm

import model
from results import figures
from results import measures
from results import runs
from weights import checkpoints

SHOWN = 4  # samples of a batch


class Events:
    """TensorBoard's event file, written in the thread that calls.

    tf.summary.FileWriter writes in a thread of its own, which on a full disk prints a
    traceback beside the line that says what is wrong.
    """

    def __init__(self, folder):
        """Opens a new file of Event messages in a folder."""
        self._folder = folder
        name = f'{int(time.time())}.{socket.gethostname()}.{os.getpid()}'
        path = os.path.join(folder, f'events.out.tfevents.{name}')
        self._file = tf.io.TFRecordWriter(path)
        self.add(file_version='brain.Event:2')

    def add(self, step=0, **what):
        """Adds one message; ValueError where it cannot be written."""
        event = tf.Event(wall_time=time.time(), step=step, **what)
        with checkpoints.writing(self._folder, 'the log'):
            self._file.write(event.SerializeToString())
            self._file.flush()

    def add_summary(self, summary, step):
        """Adds a tf.Summary, or the bytes of one."""
        if isinstance(summary, bytes):
            summary = tf.Summary.FromString(summary)
        self.add(step, summary=summary)

    def close(self):
        """Closes the file; what did not fit into it has been told."""
        with contextlib.suppress(tf.errors.OpError):
            self._file.close()


class Log:
    """log.jsonl, TensorBoard's events and the progress bar of one training.

    log.jsonl has what follows from the seed alone; times go to TensorBoard and the
    screen.

    Attributes:
      path: of log.jsonl.
      writer: Events.
      progress: the steps, with a progress bar.
    """

    def __init__(self, train_dir, graph, steps, name):
        """Opens the log where a run begins or continues.

        Args:
          train_dir: folder of the run.
          graph: tf.Graph to show.
          steps: range of the steps to do.
          name: what the progress bar says.

        Raises:
          ValueError: it cannot be written.
        """
        self._train_dir = train_dir
        with self._writing():
            self.path = runs.cut_log(train_dir, steps.start)
            self._file = open(self.path, 'a', encoding='utf-8')
            self.writer = Events(train_dir)
        shown = graph.as_graph_def(add_shapes=True)
        self.writer.add(graph_def=shown.SerializeToString())
        # TensorBoard forgets what a killed run logged after its last checkpoint
        started = tf.SessionLog(status=tf.SessionLog.START)
        self.writer.add(steps.start + 1, session_log=started)
        self.progress = tqdm.tqdm(
            steps, name, steps.stop, initial=steps.start, unit='step', disable=None
        )
        self._waited, self._since = 0.0, time.perf_counter()

    def close(self):
        """Ends all three."""
        self.progress.close()
        self.writer.close()
        with contextlib.suppress(OSError):  # what did not fit into it has been told
            self._file.close()

    def _writing(self):
        return checkpoints.writing(self._train_dir, 'the log')

    @contextlib.contextmanager
    def waiting(self):
        """What is done inside counts as waiting for input."""
        begun = time.perf_counter()
        yield
        self._waited += time.perf_counter() - begun

    @contextlib.contextmanager
    def paused(self):
        """What is done inside does not count as training."""
        begun = time.perf_counter()
        yield
        self._since += time.perf_counter() - begun

    def line(self, values):
        """Adds a line to log.jsonl, and its numbers to TensorBoard."""
        with self._writing():
            self._file.write(json.dumps(values) + '\n')
            self._file.flush()
        scalars(self.writer, values, values['step'])

    def step(self, values, clips):
        """Adds a line, and says how fast the last `clips` clips were."""
        self.line(values)
        seconds = time.perf_counter() - self._since
        speed, waiting = clips / seconds, self._waited / seconds
        timing = {'clips_per_second': speed, 'waiting': waiting}
        scalars(self.writer, timing, values['step'])
        self.progress.set_postfix_str(
            f'loss {values["loss"]:.3f}, accuracy {values["accuracy"]:.2f}, '
            f'{speed:.1f} clips/s, waiting {waiting:.0%}'
        )
        self._waited, self._since = 0.0, time.perf_counter()


def scalars(writer, values, step):
    """Numbers by name; `step` is the axis, so it is no curve."""
    values = [
        tf.Summary.Value(tag=name, simple_value=value)
        for name, value in values.items()
        if name != 'step'
    ]
    writer.add_summary(tf.Summary(value=values), step)


def samples(writer, batch, stage, step):
    """The first inputs of a batch, as they were stored.

    Args:
      writer: Events.
      batch: dict of the graph's inputs; arrays uint8 [..., H, W, channels] are shown,
        one step of each clip.
      stage: what is trained; `images` are inputs of the stream of that name.
      step: int.
    """
    for name, values in batch.items():
        if getattr(values, 'dtype', None) != np.uint8:
            continue
        stream = stage if name == 'images' else name
        for place, shown in enumerate(values[:SHOWN]):
            shown = shown if shown.ndim == 3 else shown[len(shown) // 2]
            shown = figures.as_image(shown, model.STREAMS[stream].flow)
            _, png = cv2.imencode('.png', shown)
            image(writer, f'{name}/{place}', png.tobytes(), step)


def confusion(writer, predictions, labels, class_names, step):
    """The confusion matrix as an image.

    Args:
      writer: Events.
      predictions, labels: int [N].
      class_names: list of C.
      step: int.
    """
    matrix = measures.confusion_matrix(predictions, labels, len(class_names))
    file = io.BytesIO()
    figures.draw_confusion(file, matrix, class_names, f'step {step}')
    image(writer, 'confusion', file.getvalue(), step)


def image(writer, tag, png, step):
    """One image, given as the bytes of a PNG file."""
    value = tf.Summary.Value(
        tag=tag, image=tf.Summary.Image(encoded_image_string=png, colorspace=3)
    )
    writer.add_summary(tf.Summary(value=[value]), step)


def histograms(variables):
    """The op that gives histograms of the variables."""
    return tf.summary.merge(
        # the variable's own name is taken, and would become weights_1
        [tf.summary.histogram(f'{v.op.name}/values', v) for v in variables],
        name='train/histograms',
    )
