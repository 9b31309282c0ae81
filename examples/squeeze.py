# squeeze.py
from torch import nn

from nodes.stages import Stage


class Squeeze(Stage):
    """A 1x1 convolution to ``channels`` maps at the sender, and one back at the receiver; both are trained."""

    def __init__(self, shapes, channels=2):
        super().__init__(shapes)
        self.name, shape = self.single_tensor(4)  # (1, C, H, W)
        self.sender.down = nn.Conv2d(shape.shape[1], channels, 1)
        self.receiver.up = nn.Conv2d(channels, shape.shape[1], 1)

    def compress(self, values):
        return {"maps": self.sender.down(values[self.name])}, None

    def restore(self, codes):
        return {self.name: self.receiver.up(codes["maps"])}
