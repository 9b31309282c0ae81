"""VGG-11 with batch norm, the network of deprune and prune, and the paper's numbering of its cuts."""

import torch
from torch import nn

POOL = "M"
PLAN = (64, POOL, 128, POOL, 256, 256, POOL, 512, 512, POOL, 512, 512, POOL)
HIDDEN = 4096
POOLED = 7  # side of the classifier's input; at 32x32 one pixel, repeated


def vgg11(classes: int = 10, width: float = 1.0, pooled: int = POOLED) -> nn.Sequential:
    """VGG-11: 128.8 M parameters for 10 classes; ``width`` times as many maps and hidden values in each layer."""
    layers: list[nn.Module] = []
    maps = 3
    for step in PLAN:
        if isinstance(step, str):
            layers.append(nn.MaxPool2d(2))
        else:
            wider = round(step * width)
            layers += [nn.Conv2d(maps, wider, 3, padding=1), nn.BatchNorm2d(wider), nn.ReLU()]
            maps = wider
    hidden = round(HIDDEN * width)
    layers += [nn.AdaptiveAvgPool2d(pooled), nn.Flatten()]
    layers += [nn.Linear(maps * pooled**2, hidden), nn.ReLU(), nn.Dropout()]
    layers += [nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(), nn.Linear(hidden, classes)]
    return nn.Sequential(*layers)


class OnePixel(nn.Module):
    """Maps of one pixel (N, C, 1, 1), times ``factor``. Raises ValueError for larger ones."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[2:] != (1, 1):
            raise ValueError(
                f"folded_vgg11 needs pictures of 32x32, whose last maps have one pixel, got {list(x.shape)}"
            )
        return x * self.factor


def folded_vgg11(classes: int = 10, width: float = 1.0) -> nn.Sequential:
    """``vgg11`` for pictures of 32x32 with 28.1 M parameters, the 49 equal inputs of each map folded into one.

    At 32x32 the pool before the classifier repeats one pixel p = 49 times, so the first linear layer sees only the sum
    F of its p columns for that pixel, all of which have one gradient g. Under SGD F has the gradient p g, that is
    another learning rate than a layer on one value a map would have. A layer with V = F / sqrt(p) on sqrt(p) times the
    pixel has exactly these steps: V's gradient is sqrt(p) g. So the outputs are the same, and so is training by SGD
    with any rate, momentum, weight decay and clipping by norms, but for rounding. With Adam, whose steps do not depend
    on the gradient's scale, it is another network. Parameters are drawn as those of ``vgg11``, and folded.
    """
    model = vgg11(classes, width)
    pool, linear = next((i, model[i + 2]) for i, layer in enumerate(model) if isinstance(layer, nn.AdaptiveAvgPool2d))
    assert isinstance(linear, nn.Linear)
    model[pool] = OnePixel(POOLED)
    linear.weight = nn.Parameter(folded(linear.weight.detach()))
    linear.in_features = linear.weight.shape[1]
    return model


def folded(weight: torch.Tensor) -> torch.Tensor:
    """The first linear layer's weight (H, 49 C) of ``vgg11`` as that of ``folded_vgg11`` (H, C)."""
    return weight.reshape(len(weight), -1, POOLED**2).sum(2) / POOLED


def half_vgg11(classes: int = 10) -> nn.Sequential:
    """VGG-11 at half its width: 32 M parameters."""
    return vgg11(classes, 1 / 2)


def small_vgg11(classes: int = 10) -> nn.Sequential:
    """VGG-11 at a quarter of its width, with one pixel a map for the classifier: 1.8 M parameters."""
    return vgg11(classes, 1 / 4, 1)


def tiny_vgg11(classes: int = 10) -> nn.Sequential:
    """VGG-11 at an eighth of its width, with one pixel a map for the classifier: 0.4 M parameters."""
    return vgg11(classes, 1 / 8, 1)


def layers_before(cut: int) -> int:
    """Layers of ``vgg11`` before the paper's cut ``cut``: 0 is the picture, n + 1 follows step n of PLAN.

    Pools count: cut 5 follows the second pool, with 128 maps of 8x8 at 32x32. Raises ValueError.
    """
    if not 0 <= cut <= len(PLAN) + 1 or cut == 1:
        raise ValueError(f"cut {cut}, expected 0, or 2 to {len(PLAN) + 1}")
    return sum(1 if step == POOL else 3 for step in PLAN[: max(0, cut - 1)])
