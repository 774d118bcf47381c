"""What is told of a training: log.jsonl, TensorBoard and the progress bar.

    log = summaries.Log(train_dir, graph, range(first, total), 'hybrid')
    log.step({'step': 10, 'loss': 1.5}, clips=320)

Images are encoded outside the graph, so that the graph shows the method alone.
"""

import contextlib
import io
import json
import time

import cv2
import numpy as np
import tensorflow.compat.v1 as tf
import tqdm

import model
from results import figures
from results import measures
from results import runs

SHOWN = 4  # samples of a batch


class Log:
    """log.jsonl, TensorBoard's events and the progress bar of one training.

    log.jsonl has what follows from the seed alone; times go to TensorBoard and the
    screen.

    Attributes:
      path: of log.jsonl.
      writer: tf.summary.FileWriter.
      progress: the steps, with a progress bar.
    """

    def __init__(self, train_dir, graph, steps, name):
        """Opens the log where a run begins or continues.

        Args:
          train_dir: folder of the run.
          graph: tf.Graph to show.
          steps: range of the steps to do.
          name: what the progress bar says.
        """
        self.path = runs.cut_log(train_dir, steps.start)
        self.writer = tf.summary.FileWriter(train_dir, graph)
        # TensorBoard forgets what a killed run logged after its last checkpoint
        started = tf.SessionLog(status=tf.SessionLog.START)
        self.writer.add_session_log(started, steps.start + 1)
        self.progress = tqdm.tqdm(
            steps, name, steps.stop, initial=steps.start, unit='step', disable=None
        )
        self._file = open(self.path, 'a', encoding='utf-8')
        self._waited, self._since = 0.0, time.perf_counter()

    def close(self):
        """Ends all three."""
        self.progress.close()
        self.writer.close()
        self._file.close()

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
      writer: tf.summary.FileWriter.
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
      writer: tf.summary.FileWriter.
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
