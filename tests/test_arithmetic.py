"""Where --bfloat16 is faster, and where it would be ignored or emulated."""

import io

import pytest

from results import arithmetic


@pytest.mark.parametrize(
    'onednn, processor, lack',
    [
        ('1', 'flags\t: avx2 avx512_bf16\n', ''),
        ('1', 'model\t: 1\nflags\t\t: amx_bf16 avx2\n', ''),
        ('0', 'flags\t: avx2 avx512_bf16\n', 'oneDNN: take TF_ENABLE_ONEDNN_OPTS=0'),
        ('False', 'flags\t: amx_bf16\n', 'oneDNN: take TF_ENABLE_ONEDNN_OPTS=0'),
        ('1', 'flags\t: avx2\nbugs\t: amx_bf16\n', 'a processor with avx512_bf16'),
        ('1', 'Features\t: fp asimd bf16\n', 'a processor with avx512_bf16 or'),
        ('1', None, 'a processor with avx512_bf16 or amx_bf16'),
    ],
)
def test_what_bfloat16_needs(onednn, processor, lack, monkeypatch):
    def opened(path, **how):
        assert path == '/proc/cpuinfo'
        if processor is None:
            raise FileNotFoundError(path)
        return io.StringIO(processor)

    monkeypatch.setenv('TF_ENABLE_ONEDNN_OPTS', onednn)
    monkeypatch.setattr(arithmetic, 'open', opened, raising=False)
    found = arithmetic.lack_of_bfloat16()
    assert found.startswith(lack) and bool(found) == bool(lack)
