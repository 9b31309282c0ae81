"""Distance correlation and SSIM against slow loops and known values; the decoder where the answer is known."""

import math

import pytest
import torch

from nodes.stages import leakage
from nodes.stages.leakage import distance_correlation, invert, mean_squared_error, ssim, train_inversion_decoder


def drawn(*shape, seed=0, kind=torch.randn):
    return kind(*shape, generator=torch.Generator().manual_seed(seed))


def by_loops(x, y):
    """The bias-corrected squared distance correlation, from its definition."""
    n = len(x)

    def centred(points):
        far = [[math.dist(points[i], points[j]) for j in range(n)] for i in range(n)]
        rows = [sum(far[i]) for i in range(n)]
        whole = sum(rows) / ((n - 1) * (n - 2))
        return [[far[i][j] - (rows[i] + rows[j]) / (n - 2) + whole for j in range(n)] for i in range(n)]

    def product(a, b):
        return sum(a[i][j] * b[i][j] for i in range(n) for j in range(n) if i != j) / (n * (n - 3))

    a, b = centred(x.flatten(1).tolist()), centred(y.flatten(1).tolist())
    return product(a, b) / math.sqrt(product(a, a) * product(b, b))


@pytest.mark.parametrize("seed", range(4))
def test_distance_correlation_is_its_definition(seed):
    x = drawn(20, 3, 2, seed=seed)
    y = x[:, :, 0] ** 2 + drawn(20, 3, seed=seed + 100)
    expected = by_loops(x, y)
    assert distance_correlation(x, y) == pytest.approx(math.sqrt(max(0.0, expected)), abs=1e-6)
    assert distance_correlation(x, torch.ones(20, 2)) == 0


@pytest.mark.parametrize(("x", "y"), [(drawn(3, 2), drawn(3, 2)), (drawn(9, 2), drawn(8, 2))])
def test_too_few_or_unpaired_samples_are_refused(x, y):
    with pytest.raises(ValueError, match="expected equal numbers of at least 4"):
        distance_correlation(x, y)


def ssim_by_loops(x, y):
    """Of two grey pictures (lists of rows), window by window."""
    bell = [math.exp(-((i - 5) ** 2) / (2 * 1.5**2)) for i in range(11)]
    weights = [[a * b / sum(bell) ** 2 for b in bell] for a in bell]
    found = []
    for top in range(len(x) - 10):
        for left in range(len(x[0]) - 10):
            cells = [(weights[i][j], x[top + i][left + j], y[top + i][left + j]) for i in range(11) for j in range(11)]
            mx, my = sum(w * a for w, a, _ in cells), sum(w * b for w, _, b in cells)
            vx, vy = sum(w * (a - mx) ** 2 for w, a, _ in cells), sum(w * (b - my) ** 2 for w, _, b in cells)
            cov = sum(w * (a - mx) * (b - my) for w, a, b in cells)
            found.append((2 * mx * my + 1e-4) * (2 * cov + 9e-4) / ((mx * mx + my * my + 1e-4) * (vx + vy + 9e-4)))
    return sum(found) / len(found)


def test_ssim_is_its_definition_and_a_mean_over_channels():
    x = drawn(2, 3, 14, 13, kind=torch.rand)
    y = (x + 0.3 * drawn(2, 3, 14, 13, seed=1)).clamp(0, 1)
    by_channel = [ssim_by_loops(a.tolist(), b.tolist()) for a, b in zip(x.flatten(0, 1), y.flatten(0, 1), strict=True)]
    expected = [sum(by_channel[:3]) / 3, sum(by_channel[3:]) / 3]
    assert ssim(x, y).tolist() == pytest.approx(expected, abs=1e-4)
    with pytest.raises(ValueError, match="expected at least 11 a side"):
        ssim(x[..., :10], y[..., :10])


@pytest.mark.parametrize("shape", [(8, 16, 16), (4, 5, 5), (6, 1, 1), (20,), (3, 32, 32)])
def test_a_decoder_fits_what_crosses(shape):
    smashed = drawn(6, *shape)
    decoder = leakage.InversionDecoder(smashed, 3, 16)
    assert decoder(smashed).shape == (6, 3, 16, 16)


@pytest.fixture(scope="module")
def blobs():
    """Pictures that are bright around one random place each, (N, 1, 16, 16)."""
    places = drawn(400, 2, 1, 1, kind=torch.rand) * 15
    rows, columns = torch.arange(16.0).view(1, 16, 1), torch.arange(16.0).view(1, 1, 16)
    return (-((rows - places[:, 0]).square() + (columns - places[:, 1]).square()) / 12).exp()[:, None]


def attacked(smashed, pictures, epochs=10):
    """The error of a decoder trained on the first 300, over that of their mean, on the others."""
    decoder = train_inversion_decoder(smashed[:300], pictures[:300], epochs=epochs, seed=0)
    guess, mean = invert(decoder, smashed[300:]), leakage.mean_picture(pictures[:300], 100)
    return mean_squared_error(guess, pictures[300:]) / mean_squared_error(mean, pictures[300:])


def test_the_decoder_recovers_the_picture_itself_or_where_it_is_but_nothing_from_noise(blobs):
    assert attacked(5 * blobs - 2, blobs, epochs=40) < 0.02
    assert attacked(drawn(400, 4, 4, 4), blobs) > 0.95
    weights = torch.arange(16.0)
    total = blobs.sum((1, 2, 3))
    rows, columns = (blobs.sum(axes) @ weights / total for axes in ((1, 3), (1, 2)))
    assert attacked(torch.stack([rows, columns], 1), blobs) < 0.5


def test_the_decoder_follows_from_its_seed_alone(blobs):
    twice = []
    for _ in range(2):
        torch.rand(3)
        decoder = train_inversion_decoder(blobs[:64], blobs[:64], epochs=1, seed=5)
        twice.append(invert(decoder, blobs[64:80]))
    assert torch.equal(*twice)
