"""overlay.py: every frame at its time, drawn upon, as browsers play it."""

import contextlib
import fractions
import http.server
import pathlib
import queue
import shutil
import subprocess
import threading
import urllib.parse

import av
import cv2
import drawings
import numpy as np
import pytest

import optical_flow
from data.preprocessing import decoding
from data.preprocessing import preview
from results import overlay

MADE = {'flow': 'dis-ultrafast', 'bound': 20.0, 'size': 64}
TIMELINE = [
    {
        'from_seconds': 0,
        'to_seconds': 1,
        'answer': 'Walk',
        'best': [('Walk', 1.0), ('Run', 0.0)],
    },
    {
        'from_seconds': 1,
        'to_seconds': 2,
        'answer': 'Run',
        'best': [('Run', 0.25), ('Walk', 0.2)],
    },
]


def read(path):
    with contextlib.closing(decoding.open_video(str(path))) as video:
        pairs = list(video.frames())
        assert video.truncation() == ''
    return [seconds for seconds, _ in pairs], [frame for _, frame in pairs]


def test_frames_are_drawn_upon_and_keep_their_times(tmp_path):
    stamps = [*range(30), *range(33, 48)]
    source = drawings.encode(tmp_path / 'x.mkv', numbers=range(45), stamps=stamps)
    path = tmp_path / 'out.mp4'
    overlay.write(str(path), str(source), TIMELINE, MADE)
    assert sorted(file.name for file in tmp_path.iterdir()) == ['out.mp4', 'x.mkv']
    seconds, frames = read(path)
    np.testing.assert_allclose(seconds, np.array(stamps) / 25, atol=0.001)
    # the bar of the probability ends where it should, and changes with the window
    green = [(frame[12, :, 1] > 160).sum() for frame in frames]
    assert min(green[:25]) > 110 and max(green[26:]) < 50 and min(green[26:]) > 20
    # the inset is the flow of that moment
    with contextlib.closing(decoding.open_video(str(source))) as video:
        items = list(optical_flow.frames_and_flow(video.frames(), MADE))
    for n in (7, 40):
        expected = cv2.resize(preview.flow_to_color(items[n][3]), (32, 24)).astype(int)
        assert np.abs(frames[n][72:, 96:] - expected).mean() < 25
    below = slice(40, 70), slice(0, 90)
    assert cv2.PSNR(frames[7][below], items[7][1][below]) > 30


@pytest.mark.parametrize('turned', [False, True])
def test_the_file_is_h264_for_browsers(turned, tmp_path):
    """4:2:0 of even size, index first, pixels of their shape, also of a phone's."""
    source = tmp_path / 'x.mp4'
    with av.open(str(source), 'w') as out:
        stream = out.add_stream('libx264', rate=25)
        if turned:
            stream.set_display_rotation(90)
        stream.width, stream.height, stream.pix_fmt = 101, 77, 'yuv444p'
        stream.codec_context.sample_aspect_ratio = fractions.Fraction(4, 3)
        for n in range(5):
            frame = av.VideoFrame.from_ndarray(
                drawings.numbered(n, 77, 128)[:, :101].copy(), 'bgr24'
            )
            frame.pts, frame.time_base = n, fractions.Fraction(1, 25)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    path = tmp_path / 'out.mp4'
    overlay.write(str(path), str(source), TIMELINE, MADE)
    content = path.read_bytes()
    assert content.index(b'moov') < content.index(b'mdat')
    with av.open(str(path)) as container:
        (stream,) = container.streams
        assert (stream.codec_context.name, stream.format.name) == ('h264', 'yuv420p')
        found = stream.width, stream.height, stream.sample_aspect_ratio
        assert stream.frames == 5
    if turned:
        assert found == (76, 100, fractions.Fraction(3, 4))
    else:
        assert found == (100, 76, fractions.Fraction(4, 3))


def test_sizes_that_change_end_in_one(tmp_path):
    one = drawings.encode(tmp_path / 'one.ts', numbers=range(10))
    options = {'size': (256, 192), 'stamps': range(10, 20)}
    two = drawings.encode(tmp_path / 'two.ts', numbers=range(10, 20), **options)
    both = tmp_path / 'both.ts'
    both.write_bytes(one.read_bytes() + two.read_bytes())
    overlay.write(str(tmp_path / 'out.mp4'), str(both), TIMELINE, MADE)
    _, frames = read(tmp_path / 'out.mp4')
    assert len(frames) == 20 and {frame.shape for frame in frames} == {(96, 128, 3)}


def test_nothing_is_left_of_one_that_fails(tmp_path):
    source = drawings.encode(tmp_path / 'x.mp4', numbers=range(5))
    with pytest.raises(ValueError, match='--overlay=.*absent/out.mp4: No such file'):
        overlay.write(str(tmp_path / 'absent/out.mp4'), str(source), TIMELINE, MADE)
    kept = tmp_path / 'out.mp4'
    kept.write_text('of before')
    (tmp_path / 'text.mp4').write_text('no video')
    with pytest.raises(ValueError, match='cannot be opened as a video'):
        overlay.write(str(kept), str(tmp_path / 'text.mp4'), TIMELINE, MADE)
    assert kept.read_text() == 'of before'
    assert not list(pathlib.Path(tmp_path).glob('*.part'))


PAGE = """<video src="out.mp4" muted></video><canvas width=128 height=96></canvas>
<script>
const video = document.querySelector('video');
const say = text => new Image().src = 'ADDRESS/' + encodeURIComponent(text);
video.onerror = () => say('error ' + video.error.message);
video.onseeked = () => {
  const canvas = document.querySelector('canvas').getContext('2d');
  canvas.drawImage(video, 0, 0);
  const green = canvas.getImageData(0, 12, 128, 1).data.filter((_, n) => n % 4 == 1);
  say(`plays ${video.duration} s, ${video.videoWidth} wide, bar `
    + green.filter(x => x > 160).length);
};
video.onloadeddata = () => video.currentTime = 0.5;
</script>"""


class Listener(http.server.BaseHTTPRequestHandler):
    """Keeps what the page says, which it asks for as an image."""

    def do_GET(self):
        self.server.said.put(urllib.parse.unquote(self.path))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.mark.slow
def test_chromium_plays_it(tmp_path):
    browser = shutil.which('chromium')
    if browser is None:
        pytest.skip('no chromium here: apt-get install chromium')
    source = drawings.encode(tmp_path / 'x.mkv', numbers=range(45))
    overlay.write(str(tmp_path / 'out.mp4'), str(source), TIMELINE, MADE)
    words = '--headless --disable-gpu --no-sandbox --disable-quic --no-first-run'
    words += ' --disable-background-networking --disable-component-update'
    words += f' --disable-sync --user-data-dir={tmp_path}/profile'
    words += f' --allow-file-access-from-files file://{tmp_path}/page.html'
    with http.server.HTTPServer(('127.0.0.1', 0), Listener) as server:
        server.said = queue.Queue()
        threading.Thread(target=server.serve_forever).start()
        address = f'http://127.0.0.1:{server.server_port}'
        (tmp_path / 'page.html').write_text(PAGE.replace('ADDRESS', address))
        with subprocess.Popen(
            [browser, *words.split()], stderr=subprocess.DEVNULL
        ) as process:
            try:
                said = server.said.get(timeout=120)
            finally:
                process.kill()
                server.shutdown()
    assert 'plays 1.8' in said and '128 wide, bar 12' in said, said
