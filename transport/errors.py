"""The error tree, by blame.

`LocalError` is our own bug or setting: stop with one clear line. `RemoteError` is that peer's doing: drop what it
sent, count it, keep training. Each error keeps what it is about as fields, and reads as one line.
"""

from __future__ import annotations


class TransportError(Exception):
    """Base of everything this package raises on purpose."""


class LocalError(TransportError):
    """This node's own bug or configuration, told in one line."""

    def __init__(self, problem: str) -> None:
        super().__init__(" ".join(problem.split()))


class RemoteError(TransportError):
    """What a peer sent cannot be used.

    Attributes:
        peer: Id of the node on that connection.
    """

    def __init__(self, peer: int, problem: str) -> None:
        self.peer = peer
        super().__init__(f"node {peer} {problem}")


class FrameSizeError(RemoteError):
    """The frame, or a part of it, is longer or shorter than it must be.

    Attributes:
        part: Which part of the frame.
        size_bytes: What came, or what the frame says of itself.
        expected_bytes: What it must be; `rule` says whether exactly, at least or at most.
    """

    def __init__(self, peer: int, part: str, size_bytes: int, rule: str, expected_bytes: int) -> None:
        self.part, self.size_bytes, self.rule, self.expected_bytes = part, size_bytes, rule, expected_bytes
        super().__init__(peer, f"sent a {part} of {size_bytes} bytes; {rule} {expected_bytes} are right")


class MalformedFrameError(RemoteError):
    """The bytes are no frame of this protocol.

    Attributes:
        problem: What is wrong with them.
    """

    def __init__(self, peer: int, problem: str) -> None:
        self.problem = problem
        super().__init__(peer, f"sent a malformed frame: {problem}")


class VersionError(RemoteError):
    """The peer speaks a major version that this node does not.

    Attributes:
        major: The peer's.
        known: This node's.
    """

    def __init__(self, peer: int, major: int, known: int) -> None:
        self.major, self.known = major, known
        super().__init__(peer, f"speaks protocol version {major}; this node speaks {known}")


class MismatchError(RemoteError):
    """A well-formed frame that is not the one expected on this connection.

    Attributes:
        field: Header key, or `blocks`.
        value: What the frame holds.
        expected: What it must hold.
    """

    def __init__(self, peer: int, field: str, value: object, expected: object) -> None:
        self.field, self.value, self.expected = field, value, expected
        super().__init__(peer, f"sent {field} = {value!r:.80}; {expected!r} is expected on this connection")


class DigestError(RemoteError):
    """The payload is not the one whose digest the header holds.

    Attributes:
        digest: The header's, in hexadecimal.
        expected: The payload's, in hexadecimal.
    """

    def __init__(self, peer: int, digest: str, expected: str) -> None:
        self.digest, self.expected = digest, expected
        super().__init__(peer, f"sent digest {digest} with a payload whose digest is {expected}")


class BadValueError(RemoteError):
    """A tensor holds a number that no honest snapshot holds.

    Attributes:
        tensor: Its name.
        value: The first such number.
        rule: What holds for every number of that tensor.
    """

    def __init__(self, peer: int, tensor: str, value: float, rule: str) -> None:
        self.tensor, self.value, self.rule = tensor, value, rule
        super().__init__(peer, f"sent {tensor} with the value {value}; every value there is {rule}")


class StaleError(RemoteError):
    """A snapshot that is not newer than the one already accepted.

    Attributes:
        order: Its (boot, seq).
        newest: The accepted one's.
    """

    def __init__(self, peer: int, order: tuple[int, int], newest: tuple[int, int]) -> None:
        self.order, self.newest = order, newest
        super().__init__(peer, f"sent (boot, seq) = {order}, which is not above the accepted {newest}")


class FloodError(RemoteError):
    """The peer sends faster than any publisher may, and is not listened to for a while.

    Attributes:
        frames: Frames within a second, or above what the time in which they came allows.
        limit: The most that are allowed in a second.
        quarantine_s: For how long it is not listened to.
    """

    def __init__(self, peer: int, frames: int, limit: int, quarantine_s: float) -> None:
        self.frames, self.limit, self.quarantine_s = frames, limit, quarantine_s
        super().__init__(
            peer, f"sent {frames} frames at more than {limit} a second; ignored for {quarantine_s:g} s"
        )
