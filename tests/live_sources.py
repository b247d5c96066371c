"""Live sources for tests: files of a moving square, and a server that sends such a stream and breaks off."""

from __future__ import annotations

import io
import socket
import struct
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


def write_with_b_frames(path: Path, seconds: float) -> Path:
    """A file of h264 whose pictures are not stored in the order in which they are shown."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"bf": "3", "b_strategy": "0"})
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for number in range(round(seconds * FPS)):
            container.mux(stream.encode(_frame(number, 48, 64)))
        container.mux(stream.encode())
    return path


class BreakingServer:
    """Serves a stream over HTTP in real time, once for each entry of `connections`; after the last it is gone.

    Args:
        pieces: of the stream, one a frame.
        connections: for each connection, how many pieces it gets before it is closed; None is kept open and gets
            nothing.
        hold: keep connections open, in silence, instead of closing them.

    Attributes:
        url: where it is.
        reached: set when somebody has connected.
    """

    def __init__(self, pieces: Sequence[bytes], connections: Sequence[int | None], *, hold: bool = False) -> None:
        self._pieces = pieces
        self._connections = connections
        self._hold = hold
        self._stopped = threading.Event()
        self.reached = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(120)  # a busy machine takes long to start a process
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
        try:
            for number in self._connections:
                with self._listener.accept()[0] as connection:
                    self._send(connection, number)
        except OSError:  # the test is over
            pass
        finally:
            self._listener.close()

    def _send(self, connection: socket.socket, number: int | None) -> None:
        self._greet(connection)
        self.reached.set()
        if number is None:
            self._stopped.wait(20)
            return
        self._begin(connection)
        for index, piece in enumerate(self._pieces[:number]):
            connection.sendall(self._packed(piece, index))
            if index >= number // 2:  # the first half comes at once, so that FFmpeg knows the stream soon
                time.sleep(1 / FPS)
        if self._hold:
            self._stopped.wait(20)

    def _greet(self, connection: socket.socket) -> None:
        connection.recv(4096)

    def _begin(self, connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: video/mp2t\r\n\r\n")

    def _packed(self, piece: bytes, index: int) -> bytes:
        return piece


class BreakingRtspServer(BreakingServer):
    """The same by RTSP, as cameras speak it (RFC 2326), with the transport stream in RTP packets on one connection.

    Args: as of `BreakingServer`.

    Attributes:
        transports: what was asked for in SETUP.
    """

    def __init__(self, pieces: Sequence[bytes], connections: Sequence[int | None], *, hold: bool = False) -> None:
        super().__init__(pieces, connections, hold=hold)
        self.url = self.url.replace("http:", "rtsp:")
        self.transports: list[str] = []
        self._sequence = 0

    def _greet(self, connection: socket.socket) -> None:
        description = b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\nm=video 0 RTP/AVP 33\r\na=control:track\r\n"
        with connection.makefile("rb") as requests:
            while True:
                method, *_ = requests.readline().split() or [b""]
                headers = {}
                while (line := requests.readline().strip()) != b"":
                    name, _, value = line.partition(b":")
                    headers[name.lower()] = value.strip()
                answer, body = [b"RTSP/1.0 200 OK", b"CSeq: " + headers.get(b"cseq", b"0"), b"Session: 1"], b""
                if method == b"DESCRIBE":
                    answer += [b"Content-Type: application/sdp", b"Content-Length: %d" % len(description)]
                    body = description
                elif method == b"SETUP":
                    self.transports.append(headers[b"transport"].decode())
                    answer.append(b"Transport: RTP/AVP/TCP;unicast;interleaved=0-1")
                connection.sendall(b"\r\n".join(answer) + b"\r\n\r\n" + body)
                if method in (b"PLAY", b""):
                    return

    def _begin(self, connection: socket.socket) -> None:
        """The answer to PLAY was the beginning."""

    def _packed(self, piece: bytes, index: int) -> bytes:
        packed, most = b"", 7 * 188  # whole packets of the transport stream
        for start in range(0, len(piece), most):
            part = piece[start : start + most]
            header = struct.pack(">BBHII", 0x80, 33, self._sequence % 65536, index * 90_000 // FPS, 1)
            packed += struct.pack(">cBH", b"$", 0, len(header) + len(part)) + header + part
            self._sequence += 1
        return packed
