"""Networks of einops and of Hugging Face become chains that compute what they do; needs these libraries."""

import pytest
import torch
from crossing import assert_equals_plain
from torch import nn

from nodes.model.chain import Chain


def test_a_network_that_rearranges_by_einops_equals_plain_pytorch_at_every_cut():
    einops = pytest.importorskip("einops")
    layers = pytest.importorskip("einops.layers.torch")

    class Patches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 10)
            self.rearrange = layers.Rearrange("b c h w -> b (h w) c")

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.rearrange(self.stem(x))
            return self.head(einops.reduce(x, "b n c -> b c", "mean"))

    torch.manual_seed(1)
    cuts = range(1, len(Chain(Patches(), (3, 32, 32))))
    assert len(cuts) > 3
    assert_equals_plain(Patches(), 32, [[cut] for cut in cuts])


@pytest.mark.parametrize("kind", ["Bert", "Electra"])
def test_a_text_encoder_of_hugging_face_is_opened_and_compared(kind):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = getattr(transformers, f"{kind}Config")(**sizes, vocab_size=50, num_labels=10)

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = getattr(transformers, f"{kind}ForSequenceClassification")(config)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return self.encoder(tokens).logits

    torch.manual_seed(1)
    chain = Chain(Logits(), (16,), dtype="int64")  # raises ModelError where a layer computes something else
    assert len(chain) > 40
    assert not chain.kept
