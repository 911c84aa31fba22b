"""
Tests of smtpsvc.frames: messages between a parent and its workers.
"""

from __future__ import annotations

import os

from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.frames import MOST, Frame, FrameReader, read_frame
from tests.support import cuts, given, st

FRAMES = [Frame(b"stop"), Frame(b"answer", 7, b"\0\xff\n"), Frame(b"", 2**32 - 1, b""), Frame(b"ask", 0, b"x" * 300)]


class FrameTests(SynchronousTestCase):
    def test_round_trip(self) -> None:
        """However the octets are cut, the messages that were sent come out, in order."""
        data = b"".join(frame.encode() for frame in FRAMES[:3])
        for packets in cuts(data):
            reader = FrameReader()
            self.assertEqual([frame for packet in packets for frame in reader.feed(packet)], FRAMES[:3])

    @given(st.binary(max_size=40), st.integers(0, 2**32 - 1), st.binary(max_size=400))
    def test_any(self, kind: bytes, number: int, payload: bytes) -> None:
        """Any kind, number and payload come out as they went in."""
        frame = Frame(kind, number, payload)
        self.assertEqual(list(FrameReader().feed(frame.encode())), [frame])

    def test_too_long(self) -> None:
        """A message that is too long is neither sent nor waited for."""
        self.assertRaises(ValueError, Frame(b"answer", 0, bytes(MOST + 1)).encode)
        self.assertRaises(ValueError, Frame(b"k" * 256).encode)
        head = (MOST + 1).to_bytes(4, "big") + bytes(5)
        self.assertRaises(ValueError, list, FrameReader().feed(head))

    def test_from_pipe(self) -> None:
        """The first message is read from a pipe without a reactor, and nothing of the next."""
        hear, say = os.pipe()
        self.addCleanup(os.close, hear)
        os.write(say, FRAMES[3].encode() + b"rest")
        os.close(say)
        self.assertEqual(read_frame(hear), FRAMES[3])
        self.assertEqual(os.read(hear, 10), b"rest")
        self.assertRaises(EOFError, read_frame, hear)
