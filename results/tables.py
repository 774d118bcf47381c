"""Tables of what a run predicts and is worth: predictions.csv and what is printed.

tables.write_predictions(path, examples, class_names, probabilities)
tables.print_result(result)
"""

import csv
import os

import numpy as np

from data import clips
from results import files

BEST = 5  # classes that are named of each prediction
UNKNOWN = 'none of these'
OUTCOMES = ('right', 'wrong')


def five_best(probabilities, class_names):
    """[(class name, probability)] of the five most probable classes, best first."""
    order = np.argsort(-probabilities, kind='stable')[:BEST]
    return [(class_names[label], float(probabilities[label])) for label in order]


def answer(best, unknown_below=None):
    """The class that `five_best` names first, or UNKNOWN where it is less probable than
    `unknown_below`."""
    name, probability = best[0]
    return UNKNOWN if probability < (unknown_below or 0) else name


def write_predictions(path, examples, class_names, probabilities):
    """predictions.csv: clip, label, the five best with probability, branches' choices.

    Args:
      path: file to write.
      examples: the clips.
      class_names: list of C.
      probabilities: dict name -> float [N, C]; 'video' is the prediction, every other
        one gets a column with its choice.
    """
    header = ['clip', 'label', 'prediction', 'probability']
    for rank in range(2, min(BEST, len(class_names)) + 1):
        header += [f'prediction_{rank}', f'probability_{rank}']
    others = [name for name in probabilities if name != 'video']
    with files.whole(path, newline='', **clips.TEXT) as file:
        writer = csv.writer(file, lineterminator='\n')
        writer.writerow(header + others)
        for place, example in enumerate(examples):
            line = [example.clip, class_names[example.label]]
            for name, value in five_best(probabilities['video'][place], class_names):
                line += [name, f'{value:.6f}']
            for name in others:
                line.append(class_names[probabilities[name][place].argmax()])
            writer.writerow(line)


def read_predictions(path):
    """Reads predictions.csv: dict clip -> (name of its class, name of the prediction).

    Raises:
      ValueError: there is none, or it has other columns.
    """
    if not os.path.isfile(path):
        raise ValueError(f'{path} is missing: evaluate that run first')
    with open(path, newline='', **clips.TEXT) as file:
        try:
            return {
                row['clip']: (row['label'], row['prediction'])
                for row in csv.DictReader(file)
            }
        except KeyError as error:
            raise ValueError(f'{path} has no column {error}') from error


def ending(result):
    """What ends the names of the result's files, so that train clips never replace the
    test figures."""
    return '' if result['subset'] == 'test' else f'_{result["subset"]}'


def marks(result):
    """What must be said beside every figure, such as ' (trained on)', or ''."""
    found = []
    if result['partial_split']:
        missing = result['missing'][result['subset']]
        found.append(f'partial split, {missing:,} clips missing')
    if result['trained_on']:
        found.append('trained on')
    return f' ({"; ".join(found)})' if found else ''


def difference(result):
    """One sentence on why the two levels of a result differ."""
    video, one = (result['figures'][name]['top1'] for name in ('video', 'one_sample'))
    crops = result['test_crops']
    mirrored = ' and their mirror images' if result['test_views'] == 'mirror' else ''
    return (
        f'video: {result["test_segments"]} samples of each clip'
        f'{f" in {crops} crops" if crops > 1 else mirrored}; one_sample: its middle '
        f'one alone, as most training logs show, here {100 * (one - video):+.1f} '
        'points.'
    )


def calibration(result):
    """One or two sentences on whether the probabilities mean something."""
    found, unknown = result['calibration'], result['unknown']
    text = f'expected calibration error: {found["ece_before"]:.1%}'
    if found['temperature']:
        text += f', {found["ece"]:.1%} at the temperature {found["temperature"]:.2f}'
    else:
        text += ' (train with --validation_groups to fit a temperature)'
    if unknown:
        shares = ('-' if unknown[k] is None else f'{unknown[k]:.1%}' for k in OUTCOMES)
        text += (
            f'. Below {unknown["below"]:g} the answer is "{UNKNOWN}", which takes away '
            f'{" of the right answers and ".join(shares)} of the wrong ones'
        )
    return f'{text}.'


def print_result(result):
    """Prints a result as people read it."""
    note = marks(result)
    print(
        f'\n{"":24}{"top-1":>7}  {"95 %, clips":<15}{"95 %, groups":<15}{"top-5":>7}'
        f'{"class":>8}{"mAP":>8}{note}'
    )
    for name, figures in result['figures'].items():
        by_clip, by_group = (
            '{:.1%}-{:.1%}'.format(*figures[f'top1_{kind}_95'])
            for kind in ('wilson', 'group_bootstrap')
        )
        print(
            f'{name:<24}{figures["top1"]:>7.1%}  {by_clip:<15}{by_group:<15}'
            f'{figures["top5"]:>7.1%}{figures["mean_class_accuracy"]:>8.1%}'
            f'{figures["mean_average_precision"]:>8.1%}'
        )
    print(difference(result))
    print(calibration(result))
    print(f'\n{"class":<28}{"clips":>6}{"accuracy":>10}{"AP":>8}{note}')
    for name, row in result['figures']['video']['per_class'].items():
        shares = [row['accuracy'], row['average_precision']]
        accuracy, precision = ('-' if x is None else f'{x:.1%}' for x in shares)
        print(f'{name:<28}{row["clips"]:>6}{accuracy:>10}{precision:>8}')
    for other, figures in result['compared'].items():
        low, high = figures['difference_group_bootstrap_95']
        print(
            f'\nagainst {other} ({figures["other"]}, top-1 {figures["other_top1"]:.1%})'
            f'{note}: {100 * figures["difference"]:+.1f} points, 95 % over groups '
            f'{100 * low:+.1f} to {100 * high:+.1f}; correct only in this run '
            f'{figures["only_this_right"]}, only in the other '
            f'{figures["only_other_right"]}, McNemar p = {figures["mcnemar_p"]:.2g}'
        )
