"""Faster R-CNN as a chain that can be cut in its backbone and between its two parts.

The first part proposes boxes (ResNet-50 with a feature pyramid, and the region proposal network), the second
classifies them. The backbone can be cut anywhere; proposal and classification select boxes by score, so each is one
layer. Both keep a fixed number of boxes, padded with empty ones, so that shapes, bytes and work do not depend on the
picture. The weights are random: this model is not for accuracy.
"""

from typing import Any

import torch
from torch import nn

PROPOSALS = 1000  # torchvision's ``rpn_post_nms_top_n_test``
DETECTIONS = 100  # torchvision's ``box_detections_per_img``


class FasterRcnn(nn.Module):
    """torchvision's ``fasterrcnn_resnet50_fpn`` for one picture that is already resized and normalised.

    Takes (1, 3, H, W); returns [DETECTIONS, 6]: a box, its score and its class in each row.
    """

    def __init__(self, classes: int = 91) -> None:
        super().__init__()
        from torchvision.models.detection import fasterrcnn_resnet50_fpn  # noqa: PLC0415  (takes seconds to import)

        whole = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=classes)
        self.backbone = whole.backbone
        self.propose = _Propose(whole.rpn)
        self.classify = _Classify(whole.roi_heads)

    def forward(self, x: torch.Tensor) -> Any:
        levels = list(self.backbone(x).values())
        return self.classify(x, self.propose(x, *levels), *levels)


class _Propose(nn.Module):
    """Region proposals [PROPOSALS, 4] from the size of the picture and the pyramid's maps."""

    whole = True  # one layer, since the selected boxes depend on their scores

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor, *levels: torch.Tensor) -> torch.Tensor:
        from torchvision.models.detection import image_list, rpn  # noqa: PLC0415

        network = self.network
        scores, deltas = network.head(list(levels))
        if x.is_meta:
            return x.new_empty(PROPOSALS, 4)
        sizes = [(x.shape[-2], x.shape[-1])]
        anchors = network.anchor_generator(image_list.ImageList(x, sizes), list(levels))
        counts = [score.shape[1] * score.shape[2] * score.shape[3] for score in scores]
        scores, deltas = rpn.concat_box_prediction_layers(scores, deltas)
        boxes = network.box_coder.decode(deltas.detach(), anchors).view(1, -1, 4)
        mode = network.training
        kept, _ = network.eval().filter_proposals(boxes, scores, sizes, counts)
        network.train(mode)
        return _padded(kept[0], PROPOSALS)


class _Classify(nn.Module):
    """Detections [DETECTIONS, 6] from the proposals and the pyramid's maps."""

    whole = True

    def __init__(self, heads: Any) -> None:
        super().__init__()
        self.heads = heads

    def forward(self, x: torch.Tensor, proposals: torch.Tensor, *levels: torch.Tensor) -> torch.Tensor:
        heads = self.heads
        sizes = [(x.shape[-2], x.shape[-1])]
        if x.is_meta:
            shown = x.new_empty(PROPOSALS, levels[0].shape[1], *heads.box_roi_pool.output_size)
            heads.box_predictor(heads.box_head(shown))
            return x.new_empty(DETECTIONS, 6)
        names = ["0", "1", "2", "3", "pool"]  # torchvision's names of the pyramid's levels
        shown = heads.box_roi_pool(dict(zip(names, levels, strict=True)), [proposals], sizes)
        logits, deltas = heads.box_predictor(heads.box_head(shown))
        boxes, scores, labels = heads.postprocess_detections(logits, deltas, [proposals], sizes)
        found = torch.cat([boxes[0], scores[0][:, None], labels[0][:, None].float()], 1)
        return _padded(found, DETECTIONS)


def _padded(rows: torch.Tensor, count: int) -> torch.Tensor:
    return torch.cat([rows, rows.new_zeros(count - len(rows), rows.shape[1])])
