"""A small evaluation to show: forty clips of seven classes, scored at random."""

import numpy as np

from data import splits
from results import calibration
from results import measures

NAMES = ['Walk', 'Jump <b>', 'Run', 'Sit', 'Fall', 'Wave', 'Clap']
EXAMPLES = [
    splits.Example(f'{NAMES[n % 7]}/v_{n}', n % 7, f'g{n // 3}') for n in range(40)
]


def scores():
    """dict of probabilities [40, 7], as results.scoring gives them."""
    random = np.random.default_rng(0)
    names = ('video', 'one_sample', 'fusion')
    return {name: random.dirichlet(np.ones(7), 40) for name in names}


def result():
    """What evaluation.json would hold."""
    found = scores()
    labels = np.array([example.label for example in EXAMPLES])
    groups = [example.group for example in EXAMPLES]
    matrix = measures.confusion_matrix(found['video'].argmax(1), labels, 7)
    return {
        'stage': 'hybrid',
        'step': 12,
        'subset': 'test',
        'trained_on': False,
        'partial_split': False,
        'missing': {'train': 0, 'test': 0},
        'test_segments': 25,
        'test_crops': 1,
        'test_views': 'whole',
        'class_names': NAMES,
        'figures': {
            name: measures.measure(values, labels, groups, NAMES)
            for name, values in found.items()
        },
        'confusion': matrix.tolist(),
        'calibration': calibration.measure(found['video'], labels, 1.5),
        'unknown': calibration.unknown_shares(found['video'], labels, 0.5),
        'compared': {
            'runs/other': {
                'other': 'spatial',
                'other_top1': 0.25,
                **measures.compare(labels == 1, labels == 2, groups),
            }
        },
    }
