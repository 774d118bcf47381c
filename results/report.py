"""report.html: all that was measured of a run, in one file that needs no network.

report.write('runs/hybrid/report.html', result, run, 'confusion.png', pairs)
"""

import base64
import html
import io
import os

import cv2
import numpy as np

from data import clips
from data import sampling
from data.preprocessing import preview
from results import figures
from results import files
from results import measures
from results import runs
from results import tables

PAIRS = 6  # most confused pairs with an example
ENDS = 10  # best and worst classes where there are many
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62em; margin: 2em auto;
       padding: 0 1em; color: #222; background: #fff }
h1 { font-size: 1.5em } h2 { font-size: 1.15em; margin-top: 2em }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .2em .7em; text-align: right; border-bottom: 1px solid #ddd }
th:first-child, td:first-child { text-align: left }
.plain td { text-align: left }
.mark { background: #fff1c2; padding: .4em .8em; border-left: 4px solid #d9a400 }
.pair { display: inline-block; width: 19em; margin: 0 1em 1em 0; vertical-align: top;
        overflow-wrap: anywhere }
.pair img { display: block; height: 128px; image-rendering: auto }
.columns { display: flex; gap: 3em; flex-wrap: wrap }
img.wide { max-width: 100% } td.text { text-align: left }
td { white-space: nowrap }
td.text:not(:first-child) { white-space: normal; overflow-wrap: anywhere }
"""
MEANINGS = {
    'video': 'the whole clip: the figure to quote',
    'one_sample': 'the middle sample alone',
}


def read_other(other_dir, examples, class_names):
    """What another run's folder holds of the same clips, to compare with.

    Args:
      other_dir: --train_dir of a run that was evaluated.
      examples: the clips.
      class_names: list of C.

    Returns:
      (what the run is, in words; bool [N], whether it has each clip right).

    Raises:
      ValueError: the other run has no predictions, or of other clips or labels.
    """
    flags = runs.read(other_dir)['flags']
    path = os.path.join(other_dir, 'predictions.csv')
    rows = tables.read_predictions(path)
    labels = {example.clip: class_names[example.label] for example in examples}
    if {clip: label for clip, (label, _) in rows.items()} != labels:
        raise ValueError(
            f'--compare={other_dir}: {path} is of other clips or labels; a paired test '
            'needs the same ones'
        )
    branches = flags['branches'] if flags['stage'] in ('hybrid', 'joint') else []
    right = np.array([rows[e.clip][1] == class_names[e.label] for e in examples])
    return ' '.join([flags['stage'], ', '.join(branches)]).strip(), right


def confused_examples(data_dir, rows, examples, predictions, result):
    """The most confused pairs, each with one clip's middle frame and flow.

    Args:
      data_dir: the preprocessed data set.
      rows: dict clip -> row of clips.csv.
      examples: the clips.
      predictions: int [N].
      result: what evaluation.json holds.

    Returns:
      list of (true class, predicted class, clips so confused, clip, its middle frame
      and flow uint8 [H, 2W, 3]).
    """
    names, pairs = result['class_names'], []
    for label, wrong, count in measures.confused_pairs(result['confusion'], PAIRS):
        place = next(
            place
            for place, example in enumerate(examples)
            if (example.label, predictions[place]) == (label, wrong)
        )
        clip = examples[place].clip
        middle = sampling.middle_start(rows[clip]['frames'], 2)  # with its field
        frame = clips.read_frames(data_dir, clip, [middle])[0]
        field = clips.read_flow(data_dir, clip, [middle])[0]
        colors = preview.flow_to_color(field, bound=rows[clip]['bound'])
        image = np.concatenate([frame, colors], axis=1)
        pairs.append((names[label], names[wrong], count, clip, image))
    return pairs


def embedded(png):
    """Bytes of a PNG file as an address that holds them."""
    return 'data:image/png;base64,' + base64.b64encode(png).decode()


def percent(value):
    """A share as text, '-' for None."""
    return '-' if value is None else f'{value:.1%}'


def table(header, rows):
    """An HTML table, numbers to the right; everything in it is escaped."""
    lines = [f'<tr>{"".join(f"<th>{html.escape(x)}</th>" for x in header)}</tr>']
    for row in rows:
        cells = [html.escape(str(x)) for x in row]
        kinds = ['' if x[:1] in '+-0123456789' else ' class="text"' for x in cells]
        cells = [f'<td{k}>{x}</td>' for k, x in zip(kinds, cells, strict=True)]
        lines.append(f'<tr>{"".join(cells)}</tr>')
    return f'<table>{"".join(lines)}</table>'


def figures_table(result):
    """Accuracies of each way to predict, with both intervals."""
    rows = []
    for name, measured in result['figures'].items():
        intervals = [
            '{:.1%} to {:.1%}'.format(*measured[f'top1_{kind}_95'])
            for kind in ('wilson', 'group_bootstrap')
        ]
        others = [
            percent(measured[kind])
            for kind in ('top5', 'mean_class_accuracy', 'mean_average_precision')
        ]
        meaning = MEANINGS.get(
            name, 'only the part of the scores that this branch adds'
        )
        if name.startswith('without_'):
            meaning = 'the scores without what this branch adds'
        rows.append([name, percent(measured['top1']), *intervals, *others, meaning])
    header = ['', 'top-1', '95 % over clips', '95 % over groups', 'top-5']
    return table([*header, 'mean class', 'mAP', ''], rows)


def classes_tables(result):
    """Best and worst classes, or all where they are few."""
    per_class = result['figures']['video']['per_class']
    shown = [(name, row) for name, row in per_class.items() if row['clips']]
    shown.sort(key=lambda pair: (-pair[1]['accuracy'], -pair[1]['average_precision']))
    parts = [('Classes, best first', shown)]
    if len(shown) > 2 * ENDS:
        worst = shown[: -ENDS - 1 : -1]
        parts = [('Best classes', shown[:ENDS]), ('Worst classes', worst)]
    texts = []
    for title, chosen in parts:
        rows = [
            [n, r['clips'], percent(r['accuracy']), percent(r['average_precision'])]
            for n, r in chosen
        ]
        texts.append(
            f'<div><h2>{title}</h2>'
            f'{table(["class", "clips", "accuracy", "AP"], rows)}</div>'
        )
    return f'<div class="columns">{"".join(texts)}</div>'


def compared_table(result):
    """Differences to the runs of --compare; '' where there are none."""
    rows = []
    for other, compared in result['compared'].items():
        low, high = compared['difference_group_bootstrap_95']
        rows.append(
            [
                other,
                compared['other'],
                percent(compared['other_top1']),
                f'{100 * compared["difference"]:+.1f}',
                f'{100 * low:+.1f} to {100 * high:+.1f}',
                f'{compared["only_this_right"]} / {compared["only_other_right"]}',
                f'{compared["mcnemar_p"]:.2g}',
            ]
        )
    header = ['run', 'what', 'its top-1', 'this run, points', '95 % over groups']
    header += ['correct only in this run / in that', 'McNemar p']
    title = '<h2>Against other runs, on the same clips</h2>'
    return title + table(header, rows) if rows else ''


def pairs_part(pairs):
    """The most confused pairs with an example; '' where nothing is confused."""
    parts = []
    for true, predicted, count, clip, image in pairs:
        _, png = cv2.imencode('.png', image)
        parts.append(
            f'<div class="pair"><img alt="" src="{embedded(png.tobytes())}">'
            f'true class <b>{html.escape(true)}</b><br>'
            f'predicted class <b>{html.escape(predicted)}</b>, {count} clips<br>'
            f'<small>{html.escape(clip)}</small></div>'
        )
    title = '<h2>Most confused pairs: a frame and its flow</h2>'
    return title + ''.join(parts) if parts else ''


def write(path, result, run, confusion, pairs):
    """Writes the report.

    Args:
      path: .html to write.
      result: what evaluation.json holds.
      run: the content of run.json.
      confusion: path of the confusion matrix as an image.
      pairs: from `confused_examples`.
    """
    video = result['figures']['video']
    note = tables.marks(result)
    title = (
        f'{result["stage"]}: {video["top1"]:.1%} of {video["clips"]:,} '
        f'{result["subset"]} clips{note}'
    )
    with open(confusion, 'rb') as file:
        matrix = embedded(file.read())
    diagram = io.BytesIO()
    figures.draw_reliability(diagram, result['calibration'])
    made = {
        **{f'--{name}': value for name, value in run['flags'].items()},
        'step': result['step'],
        'preprocessing': run['preprocessing'],
        'training clips': len(run['train_clips']),
        'list hashes': run['list_hashes'],
        **{
            f'{stream} CNN': f'{cnn["weights"]}, {cnn["fingerprint"]}'
            for stream, cnn in run['cnns'].items()
        },
        'versions': run['versions'],
        'revision': run['revision'],
        'started': run['started'],
    }
    text = (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{html.escape(title)}</title><style>{STYLE}</style>'
        f'<h1>{html.escape(title)}</h1>'
        + (f'<p class="mark">Read with care:{html.escape(note)}.</p>' if note else '')
        + figures_table(result)
        + f'<p>{html.escape(tables.difference(result))} Intervals of 95 %: over clips '
        'as if each were independent (Wilson), over groups by a bootstrap of whole '
        f'recordings ({video["groups"]:,}). Clips of one recording are alike, so go by '
        'the wider one.</p>' + compared_table(result) + '<h2>Confusion</h2>'
        f'<img class="wide" alt="confusion matrix" src="{matrix}">'
        + classes_tables(result)
        + '<h2>Are the probabilities right?</h2>'
        f'<p>{html.escape(tables.calibration(result))} Of the clips that a class is '
        'predicted for with a probability of 70 %, 70 % should be right.</p>'
        f'<img alt="reliability diagram" src="{embedded(diagram.getvalue())}">'
        + pairs_part(pairs)
        + '<h2>What the run was made with</h2>'
        + f'<div class="plain">{table(["", ""], made.items())}</div>'
        + '</html>\n'
    )
    with files.whole(path, **clips.TEXT) as file:
        file.write(text)
