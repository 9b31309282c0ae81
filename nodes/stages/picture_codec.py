"""The picture itself at the cut before the first layer: as raw bytes, PNG, JPEG or WebP. Beyond DynSplit's paper.

The sender restores the 8-bit pixels from the normalised picture; the receiver normalises what it decodes. Each file
is preceded by its length. No gradient returns.
"""

import io
from typing import Literal

import torch
from PIL import Image

from nodes.model.boundary import Tensors
from nodes.stages.base import Stage

SIZES = "sizes"  # wire tensor: uint8 (N, 3), the bytes of each file, little-endian
FORMATS = ("raw", "png", "jpeg", "webp")


class PictureCodec(Stage):
    """Pictures (N, 3, H, W) cross as files.

    Args:
        shapes: The model's input for one picture.
        format: "raw" (a byte a pixel and channel), "png", "jpeg" or "webp".
        quality: Of JPEG and WebP, 1 to 100; None for raw and PNG, which lose nothing.
        mean: Mean of each channel by which the data set was normalised, of pixels in [0, 1].
        std: Standard deviation of each channel, likewise.

    Raises ValueError for other formats and qualities, or a boundary that is no picture.
    """

    def __init__(
        self,
        shapes: Tensors,
        format: Literal["raw", "png", "jpeg", "webp"] = "png",
        quality: int | None = None,
        mean: tuple[float, ...] = (0.0, 0.0, 0.0),
        std: tuple[float, ...] = (1.0, 1.0, 1.0),
    ) -> None:
        super().__init__(shapes)
        self.name, one = self.single_tensor(4)
        if one.shape[1] != 3:
            raise ValueError(f"pictures have 3 channels, got {one.shape[1]}: cut before the first layer")
        if format not in FORMATS:
            raise ValueError(f"format {format!r}, expected {', '.join(FORMATS[:-1])} or {FORMATS[-1]}")
        lossy = format in {"jpeg", "webp"}
        if lossy != (quality is not None) or not 1 <= (quality or 1) <= 100:
            raise ValueError(f"quality {quality}: 1 to 100 for jpeg and webp, none for raw and png")
        self.format, self.quality = format, quality
        self._side = tuple(one.shape[2:])
        self._mean, self._std = (torch.tensor(value).view(3, 1, 1) for value in (mean, std))

    def encode(self, codes: Tensors) -> Tensors:
        value = codes[self.name].cpu()
        if value.is_meta:
            raise ValueError("pictures as files have no size in virtual time, where there are no pixels")
        pixels = ((value * self._std + self._mean) * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
        files = [self._file(one) for one in pixels.contiguous()]
        sizes = torch.tensor([len(one) for one in files])
        stream = torch.frombuffer(bytearray(b"".join(files)), dtype=torch.uint8)
        return {self.name: stream, SIZES: (sizes[:, None] >> torch.tensor([0, 8, 16]) & 255).to(torch.uint8)}

    def decode(self, wire: Tensors) -> Tensors:
        """The pictures. Raises ValueError for what is no such files."""
        stream, device = wire[self.name].cpu(), wire[self.name].device
        sizes = (wire[SIZES].cpu().long() << torch.tensor([0, 8, 16])).sum(1).tolist()
        if sum(sizes) != len(stream):
            raise ValueError(f"picture files: got {len(stream)} bytes, expected {sum(sizes)} by their sizes")
        pixels = torch.stack([self._pixels(one.numpy().tobytes()) for one in torch.split(stream, sizes)])
        return {self.name: ((pixels.permute(0, 3, 1, 2).float() / 255 - self._mean) / self._std).to(device)}

    def _file(self, pixels: torch.Tensor) -> bytes:
        if self.format == "raw":
            return pixels.numpy().tobytes()
        file = io.BytesIO()
        options = {} if self.quality is None else {"quality": self.quality}
        Image.fromarray(pixels.numpy()).save(file, self.format, optimize=self.format != "webp", **options)
        return file.getvalue()

    def _pixels(self, file: bytes) -> torch.Tensor:
        height, width = self._side
        if self.format == "raw":
            if len(file) != height * width * 3:
                raise ValueError(f"raw picture: got {len(file)} bytes, expected {height * width * 3}")
            return torch.frombuffer(bytearray(file), dtype=torch.uint8).view(height, width, 3)
        try:
            with Image.open(io.BytesIO(file), formats=[self.format.upper()]) as picture:
                if picture.size != (width, height):
                    raise ValueError(f"picture of {picture.size} pixels, expected {(width, height)}")
                raw = picture.convert("RGB").tobytes()
        except OSError as error:
            raise ValueError(f"damaged {self.format} file ({error})") from None
        return torch.frombuffer(bytearray(raw), dtype=torch.uint8).view(height, width, 3)
