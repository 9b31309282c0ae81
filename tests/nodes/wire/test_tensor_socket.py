"""What the upgraded socket measures of the link, with a transport that only holds the protocol."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from nodes.wire import tensor_socket
from nodes.wire.codec import Limits, Received, encode
from nodes.wire.messages import Activation
from nodes.wire.tensor_socket import TensorSocket


class Still:
    """A transport that carries nothing, in the clear."""

    tls = False

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *args, **options: None


def frame(size: int) -> bytes:
    message = Activation(assignment=0, step=1, train=True, tensors={"x": torch.full((size,), 7, dtype=torch.uint8)})
    return b"".join(encode(message))


@pytest.mark.parametrize(
    ("pieces", "wire_bytes", "wire_s"),
    [
        ([900], 0, 0.0),  # at once: nothing is known of the rate
        ([100, 300, 500], 800, 2.0),
        ([10, 890], 890, 1.0),  # the first piece ends inside the prefix
        ([100, 800, 900], 800, 1.0),
        ([1800], 0, 0.0),
        ([100, 1700], 0, 0.0),  # two frames end together: how much was whose is not told
        ([100, 1100, 600], 800 + 600, 2.0),
        ([900, 300, 600], 600, 1.0),
    ],
)
async def test_what_came_after_a_frames_first_bytes_is_timed(monkeypatch, pieces, wire_bytes, wire_s):
    """Frames of 900 bytes; the pieces come a second apart."""
    empty = len(frame(0))
    now = [0.0]
    data = 2 * frame(900 - empty - 2)  # two of the length take two bytes more in the header
    assert len(data) == 1800
    monkeypatch.setattr(tensor_socket.time, "perf_counter", lambda: now[0])
    taken: list[Activation] = []
    end = TensorSocket(Still(), Limits())  # type: ignore[arg-type]  # all that is asked of a transport

    def take(received: Received) -> None:
        assert isinstance(received.message, Activation)
        taken.append(received.message)

    end.attach(take, pytest.fail, pytest.fail)
    for count in pieces:
        end.get_buffer(0)[:count] = data[:count]
        data = data[count:]
        end.buffer_updated(count)
        now[0] += 1
    assert (end.wire_bytes, end.wire_s) == (wire_bytes, wire_s)
    assert all(bool((message.tensors["x"] == 7).all()) for message in taken)
    assert len(taken) == sum(pieces) // 900
