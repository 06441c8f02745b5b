"""The one training loop against a literal one, and SGD written out against torch's."""

import pytest
import torch
from torch.nn import functional as F

from atom_plugin.errors import DivergenceError
from atom_plugin.models.fitting import SGD, Batches, Course, check_loss, fit, sgd_step

IMAGES = torch.randn(10, 1, 2, 2, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(10) % 3


def network():
    layer = torch.nn.Linear(4, 3)
    torch.nn.init.constant_(layer.weight, 0.1)
    torch.nn.init.zeros_(layer.bias)
    return torch.nn.Sequential(torch.nn.Flatten(), layer)


def noisy(chosen, generator):
    """A batch that draws for itself, as augmentation does."""
    images = IMAGES[chosen]
    return images + torch.rand(images.shape, generator=generator), LABELS[chosen]


def test_it_is_the_plain_loop_and_tells_what_it_does():
    ours, literal = network(), network()
    optimizer = SGD(lr=0.1).over(ours)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
    seen, done = [], []
    course = Course(
        epochs=3,
        label_smoothing=0.2,
        schedule=schedule,
        on_batch=lambda chosen, logits: seen.append((chosen, logits)),
        on_epoch=done.append,
    )
    loss = fit(ours, Batches(count=10, size=4, of=noisy), optimizer, course, torch.Generator().manual_seed(1))

    generator, expected = torch.Generator().manual_seed(1), []
    plain = torch.optim.SGD(literal.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    for epoch in range(3):
        plain.param_groups[0]["lr"] = 0.1 if epoch < 2 else 0.05
        for chosen in torch.randperm(10, generator=generator).split(4):
            logits = literal(noisy(chosen, generator)[0])
            expected.append((chosen, logits.detach()))
            last = F.cross_entropy(logits, LABELS[chosen], label_smoothing=0.2)
            plain.zero_grad()
            last.backward()
            plain.step()
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), literal.parameters(), strict=True))
    assert [len(chosen) for chosen, _ in seen] == [4, 4, 2] * 3
    for (rows, logits), (their_rows, their_logits) in zip(seen, expected, strict=True):
        assert torch.equal(rows, their_rows)
        assert torch.equal(logits, their_logits)
    assert done == [1, 2, 3]
    assert loss == last.item()


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_is_not_finite_is_an_error_with_a_remedy(loss):
    with pytest.raises(DivergenceError, match=rf"training network 7 ended with a loss of {loss}; lower --lr"):
        check_loss(loss, "lower --lr", network="network 7")
    check_loss(1e30, "lower --lr")


@pytest.mark.parametrize("rate", [0.3, torch.tensor([0.3], dtype=torch.float64)], ids=["number", "tensor"])
@pytest.mark.parametrize("decay", [0.0, 0.05])
def test_a_step_written_out_is_that_of_torch(rate, decay):
    generator = torch.Generator().manual_seed(2)
    theirs = torch.randn(5, generator=generator, dtype=torch.float64).requires_grad_()
    ours, buffer = theirs.detach().clone().requires_grad_(), torch.zeros(5, dtype=torch.float64)
    optimizer = torch.optim.SGD([theirs], lr=0.3, momentum=0.7, weight_decay=decay)
    for _ in range(4):
        gradient = torch.randn(5, generator=generator, dtype=torch.float64)
        theirs.grad = gradient.clone()
        optimizer.step()
        sgd_step(ours, gradient, buffer, lr=rate, momentum=0.7, weight_decay=decay)
    torch.testing.assert_close(ours.detach(), theirs.detach(), rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(buffer, optimizer.state[theirs]["momentum_buffer"], rtol=1e-14, atol=1e-14)
