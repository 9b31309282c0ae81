"""A text encoder on tokens, trained on several nodes: equal to plain PyTorch, bit for bit."""

import math

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from oracle import assert_equals_unsplit, make_job
from torch import nn

from nodes.data.loading import load_data
from nodes.errors import DataError
from nodes.model.boundary import boundary_bytes
from nodes.model.chain import Chain
from nodes.spec.job import DataSpec, Job, ModelSpec
from nodes.training.in_process import run_in_process

LENGTH, CLASSES = 12, 4


class Encoder(nn.Module):
    """Embeddings of tokens and places, torch's encoder, the mean over the places, and a layer for the classes."""

    def __init__(self, classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(256, 16), nn.Parameter(torch.zeros(LENGTH, 16))
        block = nn.TransformerEncoderLayer(16, 2, 32, dropout, batch_first=True)
        self.encoder = nn.TransformerEncoder(block, 3)
        self.head = nn.Linear(16, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.tokens(x) * math.sqrt(16) + self.places
        return self.head(self.encoder(x).mean(1))


def job(splits: tuple[int, ...], **changes) -> Job:
    model = ModelSpec(name=f"{__name__}:Encoder", options={"dropout": 0.0})
    data = DataSpec(name="tokens", train_samples=96, test_samples=40)
    settings = {"model": model, "input_shape": (LENGTH,), "input_type": "int64", "classes": CLASSES, "data": data}
    return replace(make_job("small_cnn", splits), **settings | changes)


def test_torchs_encoder_can_be_cut_between_its_blocks() -> None:
    chain = Chain(Encoder(CLASSES), (LENGTH,), dtype="int64")
    blocks = [name for name in chain.names if name.startswith("encoder.layers")]
    assert blocks == ["encoder.layers.0", "encoder.layers.1", "encoder.layers.2"]
    assert boundary_bytes(chain.shapes(0)) == 8 * LENGTH  # tokens cross to the first layer
    after = chain.names.index("encoder.layers.1") + 1
    assert boundary_bytes(chain.shapes(after)) == 4 * LENGTH * 16


def test_an_encoder_in_parts_equals_the_whole_one_in_evaluation() -> None:
    torch.manual_seed(2)
    model = Encoder(CLASSES).eval()
    chain = Chain(model, (LENGTH,), dtype="int64")
    x = torch.randint(0, 256, (3, LENGTH))
    for grad in (True, False):  # without gradients torch runs a block in one kernel, which rounds otherwise
        with torch.set_grad_enabled(grad):
            for cut in range(1, len(chain)):
                middle = chain.part(0, cut).eval()({chain.input: x})
                assert torch.equal(chain.part(cut, len(chain)).eval()(middle)[chain.output], model(x))


@pytest.mark.parametrize("splits", [(5,), (0, 4)])
def test_training_on_tokens_equals_plain_pytorch(splits: tuple[int, ...], tmp_path) -> None:
    assert_equals_unsplit(job(splits), tmp_path)


def test_an_encoder_learns_which_class_the_tokens_are_of() -> None:
    data = DataSpec(name="tokens", train_samples=1024, test_samples=512)
    optimizer = replace(job((4,)).optimizer, name="adam", lr=0.01, momentum=0.0, weight_decay=0.0)
    outcome = run_in_process(job((4,), data=data, optimizer=optimizer, batch_size=64, steps=None, epochs=10))
    chance = 1 / CLASSES
    deviation = math.sqrt(chance * (1 - chance) / data.test_samples)  # of the share that is right by chance
    assert outcome.epochs[-1]["test_accuracy"] > chance + 5 * deviation


def test_tokens_of_a_file_and_what_is_wrong_with_others(tmp_path) -> None:
    given = {"x_train": np.arange(24).reshape(2, 12), "y_train": [0, 3], "x_test": np.ones((1, 12), int), "y_test": [1]}
    np.savez(tmp_path / "words.npz", **given)
    data = DataSpec(name="npz:words", directory=str(tmp_path))
    loaded = load_data(job((4,), data=data))
    assert loaded.train.images.tolist() == given["x_train"].tolist()
    assert loaded.test.labels.tolist() == [1]
    wrong = {"x_train": np.ones((2, 12)), "y_train": [0, 4], "x_test": np.ones((1, 11), int), "y_test": [[1], [2]]}
    for name, value in wrong.items():
        np.savez(tmp_path / "words.npz", **given | {name: value})
        with pytest.raises(DataError, match=rf"words\.npz: {name[0]}_{name[2:]}|words\.npz: x_{name[2:]}"):
            load_data(job((4,), data=data))
    np.savez(tmp_path / "words.npz", x_train=given["x_train"])
    with pytest.raises(DataError, match=r"words\.npz: no array y_train; expected the arrays x_train, y_train"):
        load_data(job((4,), data=data))
    with pytest.raises(DataError, match="augment"):
        load_data(job((4,), data=replace(data, augment=True)))
