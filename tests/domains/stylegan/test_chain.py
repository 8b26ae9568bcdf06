"""From a checkpoint to a smaller generator: converted, scored, pruned, recovered, exported, opened elsewhere."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from gencompress.core.budget import Budget, solve
from gencompress.criteria.diversity import diversity_scores
from gencompress.domains.stylegan.convert import convert
from gencompress.domains.stylegan.domain import StyleGan
from gencompress.domains.stylegan.export import export_networks
from gencompress.domains.stylegan.recovery import GanRecover, recover_
from gencompress.run import NullContext
from tests.domains.stylegan import held
from tests.domains.stylegan.tiny import normal

_FRESH = """
import sys, torch
from safetensors.torch import load_file, save_file
from gencompress.domains.stylegan.load import load_networks
given = load_file(sys.argv[2])
generator = load_networks(sys.argv[1]).generator
save_file({"z": generator(given["z"]), "w": generator(given["w"], space="w")}, sys.argv[3])
"""


@pytest.mark.parametrize("metric", ["params", "macs"])
def test_the_whole_chain(tmp_path, metric):
    torch.manual_seed(0)
    widths = {4: 16, 8: 16, 16: 8}
    data = held.nvidia_pickle(held.nvidia_generator(widths, dim=8), held.nvidia_discriminator(widths))
    (tmp_path / "a.pkl").write_bytes(data)
    convert(tmp_path / "a.pkl", tmp_path / "dense")

    dense = StyleGan.load(tmp_path / "dense", round_to=4)
    scores = diversity_scores(dense.subject(), dense.groups, 2, NullContext(), directions=3)
    plan = solve(dense.groups, scores, Budget(metric=metric, keep=0.5), dense.cost(metric), dense.source)
    small = dense.prune(plan)
    assert small.cost(metric).dense <= plan.budget["asked"] and all(c % 4 == 0 for c in small.generator.config.channels)
    settings = GanRecover(steps=2, batch=2, path_every=1)
    real = lambda index, size: normal(size, 3, 16, 16, seed=index)  # noqa: E731
    recover_(small.generator, dense.generator, small.discriminator, real, NullContext(), settings)
    opened = StyleGan.load(tmp_path / "dense").networks  # nothing of the dense one has changed
    for ours, theirs in ((dense.generator, opened.generator), (dense.discriminator, opened.discriminator)):
        assert all(torch.equal(t, theirs.state_dict()[n]) for n, t in ours.state_dict().items())
    export_networks(small.networks, plan, tmp_path / "small")

    z = normal(2, 8)
    w = dense.generator.mapping(z)[:, None].repeat(1, dense.generator.config.latents, 1)  # of the dense generator
    save_file({"z": z, "w": w}, tmp_path / "given")
    paths = [str(tmp_path / name) for name in ("small", "given", "pictures")]
    done = subprocess.run([sys.executable, "-c", _FRESH, *paths], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = load_file(tmp_path / "pictures")
    for name, expected in (("z", small.generator(z)), ("w", small.generator(w, space="w"))):
        assert float((found[name] - expected).abs().max()) <= 1e-5 * float(expected.abs().max())
    assert float((found["z"] - found["w"]).abs().max()) <= 1e-5 * float(found["w"].abs().max())
