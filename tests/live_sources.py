"""Live sources for tests: files of a moving square, and a server that sends such a stream and breaks off."""

from __future__ import annotations

import io
import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np

FPS = 25


def _frame(number: int, height: int, width: int) -> av.VideoFrame:
    frame_HWC = np.zeros((height, width, 3), np.uint8)
    left = 3 * number % (width - 20)
    frame_HWC[height // 3 : height // 2, left : left + 20] = 255
    return av.VideoFrame.from_ndarray(frame_HWC, format="rgb24")


def transport_stream(seconds: float, *, height: int = 48, width: int = 64) -> list[bytes]:
    """An MPEG transport stream of h264 in pieces, one a frame, as a camera would send it."""
    sink, pieces = io.BytesIO(), []
    with av.open(sink, "w", format="mpegts") as container:
        options = {"preset": "ultrafast", "tune": "zerolatency", "g": "5"}
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for number in range(round(seconds * FPS)):
            container.mux(stream.encode(_frame(number, height, width)))
            pieces.append(sink.getvalue())
            sink.seek(0)
            sink.truncate()
    return pieces


def write_video(
    path: Path, seconds: float, *, fps: int = FPS, height: int = 48, width: int = 64, repeats: int = 1
) -> Path:
    """A file of h264; its packets are written `repeats` times, one after the other."""
    encoder = av.CodecContext.create("libx264", "w")
    encoder.height, encoder.width, encoder.pix_fmt, encoder.framerate = height, width, "yuv420p", fps
    encoder.time_base = 1 / encoder.framerate
    encoder.options = {"preset": "ultrafast", "bf": "0"}
    total = round(seconds * fps)
    packets = [packet for number in range(total) for packet in encoder.encode(_frame(number, height, width))]
    packets += encoder.encode(None)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.codec_context.extradata = encoder.extradata
        for repeat in range(repeats):
            for number, packet in enumerate(packets):
                copy = av.Packet(bytes(packet))
                copy.stream, copy.time_base, copy.is_keyframe = stream, encoder.time_base, packet.is_keyframe
                copy.pts = copy.dts = repeat * total + number
                container.mux(copy)
    return path


class BreakingServer:
    """Serves a stream over HTTP in real time, once for each entry of `connections`; after the last it is gone.

    Args:
        pieces: of the stream, one a frame.
        connections: for each connection, how many pieces it gets before it is closed; None is kept open and gets
            nothing.
        hold: keep connections open, in silence, instead of closing them.

    Attributes:
        reached: set when somebody has connected.
    """

    def __init__(self, pieces: Sequence[bytes], connections: Sequence[int | None], *, hold: bool = False) -> None:
        self._pieces = pieces
        self._connections = connections
        self._hold = hold
        self._stopped = threading.Event()
        self.reached = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/live"

    def __enter__(self) -> BreakingServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._listener.close()
        self._thread.join(5)

    def _serve(self) -> None:
        self._listener.settimeout(20)
        try:
            for number in self._connections:
                with self._listener.accept()[0] as connection:
                    self._send(connection, number)
        except OSError:  # the test is over
            pass
        finally:
            self._listener.close()

    def _send(self, connection: socket.socket, number: int | None) -> None:
        connection.recv(4096)
        self.reached.set()
        if number is None:
            self._stopped.wait(20)
            return
        connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: video/mp2t\r\n\r\n")
        for index, piece in enumerate(self._pieces[:number]):
            connection.sendall(piece)
            if index >= number // 2:  # the first half comes at once, so that FFmpeg knows the stream soon
                time.sleep(1 / FPS)
        if self._hold:
            self._stopped.wait(20)
