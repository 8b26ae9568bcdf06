from __future__ import annotations

import pytest
import torch
from torch import nn

from gencompress.core.features import feature_error, features
from gencompress.errors import ConfigError


class Net(nn.Module):
    """A block that returns a tensor, one that returns nested tensors and nothing, as diffusers' blocks do."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 3), nn.Identity(), nn.Linear(3, 1)

    def forward(self, x):
        x = self.a(x)
        x, _, _ = self.b((x, None, [x * 2]))
        return self.c(x)


def test_features_are_those_of_the_latest_forward():
    net = Net()
    with features(net, ["b", "a"]) as seen:
        assert seen == {}
        for x in (torch.randn(2, 3), torch.randn(4, 3)):
            net(x)
            assert [t.tolist() for t in seen["a"]] == [net.a(x).tolist()]
            assert [t.tolist() for t in seen["b"]] == [net.a(x).tolist(), (net.a(x) * 2).tolist()]
        seen["a"][0].sum().backward()
    assert net.a.weight.grad is not None and net.c.weight.grad is None


def test_hooks_go_with_the_context():
    net = Net()
    with pytest.raises(ConfigError, match="no features of 'd'"), features(net, ["a", "d"]):
        pass
    with pytest.raises(ZeroDivisionError), features(net, ["a"]):
        raise ZeroDivisionError
    assert not any(m._forward_hooks for m in net.modules())


def test_feature_error_is_relative_and_the_mean_over_tensors():
    teacher = {"a": (torch.full((2, 3), 10.0),), "b": (torch.ones(4), torch.full((2,), -2.0))}
    student = {"a": (torch.full((2, 3), 11.0),), "b": (torch.ones(4), torch.full((2,), -1.0))}
    error = feature_error(student.values(), teacher.values())
    assert error.item() == pytest.approx((0.01 + 0 + 0.25) / 3)
    assert feature_error(teacher.values(), teacher.values()).item() == 0


def test_gradient_goes_to_the_student_only():
    student, teacher = torch.ones(2, requires_grad=True), torch.zeros(2, requires_grad=True)
    error = feature_error([(student,)], [(teacher,)])
    error.backward()
    assert torch.isfinite(error) and student.grad is not None and teacher.grad is None


def test_features_must_match():
    one = (torch.ones(2),)
    with pytest.raises(ValueError):
        feature_error([one], [one, one])
    with pytest.raises(ValueError):
        feature_error([one], [one + one])
