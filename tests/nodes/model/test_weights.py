"""Weights as people save them, against the state dict that they were made from."""

import json
import struct

import pytest
import torch
from torch import nn

from nodes.errors import ModelError
from nodes.model.weights import fit_weights
from nodes.zoo.small_cnn import small_cnn

NAMES = {torch.float32: "F32", torch.int64: "I64", torch.float16: "F16", torch.bfloat16: "BF16", torch.bool: "BOOL"}


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return small_cnn(10, 8).state_dict()


def safetensors(tensors: dict[str, torch.Tensor]) -> tuple[dict, bytes]:
    """The header and the bytes of a safetensors file, as its format says."""
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, tensor in tensors.items():
        raw = bytes(tensor.contiguous().flatten().view(torch.uint8).tolist())
        about = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape)}
        header[name] = about | {"data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    return header, data


def write(path, header: dict, data: bytes) -> str:
    head = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + data)
    return str(path)


def prefixed(state, prefix: str):
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


WRAPPED = {
    "plain": (lambda state: state, []),
    "with others beside": (lambda state: {**state, "epoch": 3, "lr": torch.tensor(0.1)}, ["epoch", "lr"]),
    "in state_dict": (lambda state: {"epoch": 3, "state_dict": state}, ["epoch"]),
    "in model": (lambda state: {"model": state, "optimizer": {"state": {0: {"m": torch.ones(2)}}}}, ["optimizer"]),
    "in a name of one's own": (lambda state: {"run": {"best": state, "score": 0.9}}, ["run.score"]),
    "of DataParallel": (lambda state: prefixed(state, "module."), []),
    "compiled": (lambda state: prefixed(state, "_orig_mod."), []),
    "compiled in DataParallel": (lambda state: {"net": prefixed(state, "module._orig_mod.")}, []),
    "of a trainer": (lambda state: {"state_dict": prefixed(state, "model.") | {"loss.w": torch.ones(1)}}, ["loss.w"]),
    "a backbone and a head": (lambda state: prefixed(state, "backbone.") | {"head.w": torch.ones(3)}, ["head.w"]),
    "of one attribute": (lambda state: {"state_dict": prefixed(state, "module.classifier.")}, []),
    "of a stage too": (lambda state: state | {"sender.encoder.weight": torch.ones(3)}, []),
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_what_wraps_a_state_dict_is_taken_off(kind, state, tmp_path):
    wrap, unused = WRAPPED[kind]
    torch.save(wrap(state), tmp_path / "w.pt")
    fit = fit_weights(str(tmp_path / "w.pt"), small_cnn(10, 8).state_dict())
    assert all(torch.equal(fit.tensors[name], tensor) for name, tensor in state.items())
    assert set(fit.tensors) - set(state) == ({"sender.encoder.weight"} if kind == "of a stage too" else set())
    assert (fit.taken, fit.total, fit.missing, fit.unused) == (len(state), len(state), {}, unused)
    assert fit.complete
    assert f"w.pt: {len(state)} of {len(state)} tensors taken" in str(fit)
    assert all(name in str(fit) for name in unused)


def test_of_two_that_fit_the_trained_one_counts_and_of_unequal_ones_the_fuller(state, tmp_path):
    other = {name: tensor + 1 for name, tensor in state.items()}
    part = dict(list(state.items())[:3])
    for content in ({"ema": other, "model": state}, {"model": part, "ema": state}):
        torch.save(content, tmp_path / "w.pt")
        fit = fit_weights(str(tmp_path / "w.pt"), state)
        assert all(torch.equal(fit.tensors[name], tensor) for name, tensor in state.items())


def test_an_exact_name_counts_before_one_with_a_prefix(tmp_path):
    inner = nn.ModuleDict({"model": nn.Linear(2, 2)}).state_dict()
    torch.save(inner | {"module.model.weight": torch.ones(2, 2)}, tmp_path / "w.pt")
    fit = fit_weights(str(tmp_path / "w.pt"), inner)
    assert torch.equal(fit.tensors["model.weight"], inner["model.weight"])
    assert fit.unused == ["module.model.weight"]


def test_safetensors_are_read(state, tmp_path):
    path = write(tmp_path / "w.safetensors", *safetensors(state))
    for device in ("cpu", "meta"):
        fit = fit_weights(path, state, device)
        assert (fit.taken, fit.unused) == (len(state), [])
        assert {tensor.device.type for tensor in fit.tensors.values()} == {device}
    assert all(torch.equal(fit_weights(path, state).tensors[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize("dtype", NAMES)
def test_safetensors_keep_their_dtypes_and_shapes(dtype, tmp_path):
    tensors = {
        "a": torch.tensor([[0, 1], [1, 0]]).to(dtype),
        "none": torch.zeros(0, 3, dtype=dtype),
        "one": torch.ones((), dtype=dtype),
    }
    found = fit_weights(write(tmp_path / "w", *safetensors(tensors)), tensors).tensors
    assert all(found[name].dtype == dtype and torch.equal(found[name], tensor) for name, tensor in tensors.items())


DAMAGES = {
    "longer than the file": lambda header, data: (header, data[:-1]),
    "of other sizes": lambda header, data: (header | {"a": header["a"] | {"shape": [3, 2]}}, data),
    "over each other": lambda header, data: (header | {"b": header["b"] | {"data_offsets": [0, 8]}}, data),
    "before the data": lambda header, data: (header | {"a": header["a"] | {"data_offsets": [-16, 0]}}, data),
    "of an unknown dtype": lambda header, data: (header | {"a": header["a"] | {"dtype": "F4"}}, data),
    "of huge shapes": lambda header, data: (header | {"a": header["a"] | {"shape": [1 << 62, 1 << 62]}}, data),
    "no description": lambda header, data: (header | {"a": 7}, data),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damaged_safetensors_are_refused(kind, tmp_path):
    tensors = {"a": torch.ones(2, 2), "b": torch.ones(2)}
    path = write(tmp_path / "w", *DAMAGES[kind](*safetensors(tensors)))
    with pytest.raises(
        ModelError, match=r"w cannot be read: neither safetensors nor .*(is said to be|is described as)"
    ):
        fit_weights(path, tensors)


def test_a_header_longer_than_the_file_is_refused_before_it_is_read(tmp_path):
    (tmp_path / "w").write_bytes(struct.pack("<Q", 1 << 40) + b"{}")
    with pytest.raises(ModelError, match=f"its header is said to have {1 << 40} bytes"):
        fit_weights(str(tmp_path / "w"), {"a": torch.ones(1)})


class Marking:
    """Its unpickling would leave a mark."""

    def __reduce__(self):
        return exec, ("import builtins; builtins.marked = True",)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["a module", "a module in the old format", "scripted", "code"])
def test_more_than_tensors_is_refused_with_the_way_out_and_never_run(kind, state, tmp_path):
    path, network = tmp_path / "w.pt", small_cnn(10, 8).eval()
    match kind:
        case "scripted":
            torch.jit.save(torch.jit.script(network), path)
        case "code":
            torch.save({**state, "more": Marking()}, path)
        case _:
            torch.save(network, path, _use_new_zipfile_serialization=kind == "a module")
    with pytest.raises(ModelError, match=r"w\.pt: holds more than tensors.*torch\.save\(network\.state_dict\(\)"):
        fit_weights(str(path), state)
    import builtins  # noqa: PLC0415

    assert not hasattr(builtins, "marked")


@pytest.mark.parametrize("content", [b"", b"hello there", b"PK\x03\x04 cut off"])
def test_what_is_no_such_file_is_one_line(content, tmp_path):
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(
        ModelError, match=r"w\.pt cannot be read: neither safetensors nor what torch\.save wrote"
    ) as error:
        fit_weights(str(tmp_path / "w.pt"), {"a": torch.ones(1)})
    assert "\n" not in str(error.value)


def test_weights_of_another_network_are_told_by_how_much_of_them_fits(state, tmp_path):
    other = {
        name: torch.ones(*tensor.shape[:2], 5, 5) if tensor.dim() == 4 else tensor for name, tensor in state.items()
    }
    del other["15.bias"]
    torch.save(other, tmp_path / "w.pt")
    fit = fit_weights(str(tmp_path / "w.pt"), state)
    changed = [name for name, tensor in state.items() if tensor.dim() == 4]
    numbers = [sum(state[name].numel() for name in names) for names in (state.keys() - {*changed, "15.bias"}, state)]
    assert list(fit.missing) == [*changed, "15.bias"]
    assert (fit.taken, fit.taken_numbers, fit.total_numbers) == (len(state) - len(changed) - 1, *numbers)
    assert not fit.complete
    assert "fit in part" in str(fit)
    assert "0.weight (the file's is [8, 3, 5, 5], the model's [8, 3, 3, 3])" in str(fit)
    assert "1 more" in str(fit)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (lambda tensor: (10 * tensor).to(torch.int8), "the file's is int8, the model's float32"),
        (lambda tensor: tensor.to(torch.complex64), "the file's is complex64, the model's float32"),
        (lambda tensor: tensor.to_sparse(), "the file's is sparse_coo of float32, the model's float32"),
    ],
)
def test_numbers_of_another_kind_are_not_taken(other, words, state, tmp_path):
    torch.save(state | {"0.weight": other(state["0.weight"])}, tmp_path / "w.pt")
    assert fit_weights(str(tmp_path / "w.pt"), state).missing == {"0.weight": words}
    halves = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    torch.save(halves, tmp_path / "w.pt")
    assert fit_weights(str(tmp_path / "w.pt"), state).complete


def test_counters_that_old_files_lack_are_no_matter(state, tmp_path):
    torch.save({name: tensor for name, tensor in state.items() if "num_batches" not in name}, tmp_path / "w.pt")
    fit = fit_weights(str(tmp_path / "w.pt"), state)
    assert (fit.taken, fit.complete) == (len(state) - 3, True)


@pytest.mark.parametrize("content", [{}, [1, 2], {"a": 1}, {"other": torch.ones(3)}, {"0.weight": torch.ones(3)}])
def test_what_fits_nothing_is_refused(content, state, tmp_path):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r"w\.pt: fits no tensor of the model; the file has .*, the model 0\.weight"):
        fit_weights(str(tmp_path / "w.pt"), state)


def test_weights_with_nan_are_refused_and_infinite_ones_told_by_name(state, tmp_path):
    path, name = str(tmp_path / "w.pt"), next(iter(state))
    state[name].view(-1)[3] = float("inf")
    torch.save(state, path)
    assert f"; infinite numbers in {name}" in str(fit_weights(path, state))
    state[name].view(-1)[5] = float("nan")
    torch.save(state | {"other.weight": torch.full((2,), float("nan"))}, path)
    with pytest.raises(ModelError, match=f"nan in {name}, as of a training that diverged"):
        fit_weights(path, state)
    assert fit_weights(path, state, "meta").complete
    torch.save(state | {name: torch.ones_like(state[name]), "other.weight": torch.full((2,), float("nan"))}, path)
    assert fit_weights(path, state).infinite == []
