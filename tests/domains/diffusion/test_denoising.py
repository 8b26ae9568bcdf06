"""The run step by step is the stock pipeline's run: same values, same gradients, for every family and scheduler."""

from __future__ import annotations

import copy
import dataclasses
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from gencompress.core.trajectory import final_latents, roll
from gencompress.domains.diffusion.denoising import ADAPTERS, Batch, Denoising
from gencompress.domains.diffusion.schedulers import named_scheduler
from gencompress.errors import ConfigError, DataError, ModelError, SchedulerError
from tests.domains.diffusion import tiny

torch.set_num_threads(1)

STEPS = 4
SEEDS = (11, 5)
FAMILIES = sorted(tiny.TINY)
TEXT = [name for name in FAMILIES if name not in ("ddpm", "dit")]
# None is the pipeline's own scheduler.
SCHEDULERS: dict[str, tuple[str | None, ...]] = {
    "ddpm": (None, "dpmpp", "ddpm"),  # the stock pipeline never scales its input, as both Euler need
    "dit": (None, "dpmpp"),  # likewise, and it draws other noise for DDPM than the seed's
    "sd": (None, "ddim", "dpmpp", "euler", "ddpm", "euler_ancestral"),
    "sdxl": (None, "ddim", "dpmpp", "ddpm", "euler_ancestral"),
    "pixart": (None, "ddim", "euler"),
    "sd3": (None, "dpmpp"),
    "flux": (None, "dpmpp"),
    "sana": (None, "flow_euler"),
}


@cache
def pipe_of(family: str) -> Any:
    """Shared by all tests; none may change it."""
    return tiny.tiny_pixart(sigma=True) if family == "pixart-sigma" else tiny.TINY[family]()


def prompts_of(family: str) -> list[str] | None:
    return {"ddpm": None, "dit": ["class3", "207"]}.get(family, list(tiny.PROMPTS))


def denoising_of(family: str, **options: Any) -> Denoising:
    if family == "sana":  # its own default is the size of the transformer, 32 px here, and the stock call's 1024 px
        options |= {"height": 32, "width": 32}
    return Denoising.of(pipe_of(family), STEPS, **options)


def stock_pipe(family: str, scheduler: str | None) -> Any:
    pipe = copy.copy(pipe_of(family))
    if scheduler is not None:
        if family == "ddpm":
            from diffusers import DDPMPipeline

            pipe = DDPMPipeline(pipe.unet, pipe.scheduler)
            pipe.set_progress_bar_config(disable=True)
        pipe.scheduler = named_scheduler(scheduler, pipe.scheduler)
    else:
        pipe.scheduler = copy.deepcopy(pipe.scheduler)
    return pipe


def stock_call(family: str, call: Callable[..., Any], output_type: str, **options: Any) -> Tensor:
    """What the stock `call` returns for our prompts and seeds."""
    arguments: dict[str, Any] = {"prompt": list(tiny.PROMPTS)}
    if family == "ddpm":
        arguments = {"batch_size": len(SEEDS)}
    elif family == "dit":
        arguments = {"class_labels": [3, 207]}
    elif family in ("sana", "pixart", "pixart-sigma"):
        arguments["use_resolution_binning"] = False
    if family == "sana":
        arguments |= {"height": 32, "width": 32}
    drawing = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    made = call(**arguments, num_inference_steps=STEPS, generator=drawing, output_type=output_type, **options)
    return torch.as_tensor(made.images)


def final(denoising: Denoising, family: str) -> Tensor:
    return final_latents(denoising, denoising.batch(prompts_of(family), SEEDS))


def assert_equals_stock(family: str, scheduler: str | None, **options: Any) -> None:
    denoising, pipe = denoising_of(family, scheduler=scheduler, **options), stock_pipe(family, scheduler)
    latents = final(denoising, family)
    assert latents.isfinite().all()
    if family in ("ddpm", "dit"):  # these return no latents, but unrounded pixels
        pixels = stock_call(family, pipe, "pt", **options)
        assert (denoising.adapter.decode(latents).float() - pixels).abs().max() <= 1e-5
        assert ((pixels > 0.01) & (pixels < 0.99)).float().mean() > 0.05  # not all of it is clamped away
    else:
        expected = stock_call(family, pipe, "latent", **options)
        assert latents.dtype == expected.dtype and latents.shape == expected.shape
        assert (latents - expected).abs().max() <= 1e-5


@pytest.mark.parametrize("family, scheduler", [(f, s) for f in FAMILIES for s in SCHEDULERS[f]])
def test_final_latents_equal_the_stock_pipeline(family: str, scheduler: str | None) -> None:
    assert_equals_stock(family, scheduler)


def test_pixart_sigma_equals_the_stock_pipeline() -> None:
    assert_equals_stock("pixart-sigma", None)


@pytest.mark.parametrize(
    "family, scale", [*((f, s) for f in [*TEXT, "dit"] if f != "flux" for s in (1.0, 2.5)), ("flux", 2.5)]
)
def test_guidance_scale_equals_the_stock_pipeline(family: str, scale: float) -> None:
    assert_equals_stock(family, None, guidance_scale=scale)


@pytest.mark.parametrize("family", FAMILIES)
def test_images_equal_the_stock_pipeline(family: str) -> None:
    denoising = denoising_of(family)
    images = denoising.decode(final(denoising, family))
    stock = stock_call(family, stock_pipe(family, None), "np")
    assert images.dtype == torch.uint8 and images.shape[1] == 3
    assert torch.equal(images, (stock * 255).round().to(torch.uint8).permute(0, 3, 1, 2))
    assert images.float().std() > 10


def test_one_channel_becomes_three() -> None:
    denoising = Denoising.of(tiny.tiny_ddpm(channels=1), 2)
    images = denoising.decode(final(denoising, "ddpm"))
    assert images.shape == (2, 3, 16, 16) and torch.equal(images[:, 0], images[:, 2])


@pytest.mark.parametrize("family", ["sd", "pixart", "dit", "flux", "sana"])
def test_bf16_equals_the_stock_pipeline(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = tiny.TINY[family]().to(torch.bfloat16)
    monkeypatch.setattr(sys.modules[__name__], "pipe_of", lambda _: pipe)
    assert_equals_stock(family, None)


@pytest.mark.parametrize("family", ["sd", "sd3", "flux", "pixart"])
def test_another_resolution_equals_the_stock_pipeline(family: str) -> None:
    assert_equals_stock(family, None, height=32, width=16)


@pytest.mark.parametrize("family", ["sd3", "flux"])
@pytest.mark.parametrize("scheduler", [None, "dpmpp"])
def test_dynamic_time_shift_equals_the_stock_pipeline(
    family: str, scheduler: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    pipe = copy.copy(pipe_of(family))
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, max_image_seq_len=32, base_image_seq_len=2
    )
    monkeypatch.setattr(sys.modules[__name__], "pipe_of", lambda _: pipe)
    assert_equals_stock(family, scheduler)


def test_pixart_alpha_large_model_is_told_the_size() -> None:
    from diffusers import PixArtTransformer2DModel

    small = pipe_of("pixart")
    width = {"num_attention_heads": 3, "cross_attention_dim": 24}  # the conditions share it out in thirds
    config = {**small.transformer.config, **width, "sample_size": 128, "use_additional_conditions": True}
    pipe = copy.copy(small)
    pipe.transformer = PixArtTransformer2DModel.from_config(config).eval()
    denoising = Denoising.of(pipe, 2, height=32, width=16)
    drawing = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    size = {"height": 32, "width": 16, "use_resolution_binning": False}
    made = pipe(list(tiny.PROMPTS), num_inference_steps=2, generator=drawing, output_type="latent", **size).images
    assert (final(denoising, "pixart") - made).abs().max() <= 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_equals_that_of_the_undecorated_stock_pipeline(family: str) -> None:
    """Plain backpropagation through the stock ``__call__`` without its ``no_grad`` is the reference."""
    denoising, pipe = denoising_of(family), stock_pipe(family, None)
    weight = last_weight(denoising.module)
    with requires_grad(weight):
        stock = stock_call(family, lambda **kw: type(pipe).__call__.__wrapped__(pipe, **kw), stock_output(family))
        (expected,) = torch.autograd.grad(cotangent(stock), weight)
        batch = denoising.batch(prompts_of(family), SEEDS)
        states = [denoising.start(batch)]
        for i in range(denoising.steps):
            states.append(denoising.step(i, states[-1], batch))
        latents = states[-1][0]
        found = latents if stock_output(family) == "latent" else denoising.adapter.decode(latents)
        (gradient,) = torch.autograd.grad(cotangent(found), weight)
    assert expected.abs().max() > 0
    assert torch.allclose(gradient, expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))


@pytest.mark.parametrize("family, scheduler", [("ddpm", None), ("sd", "dpmpp"), ("sdxl", "euler"), ("sana", None)])
def test_recomputing_step_by_step_gives_the_gradient_of_the_unrolled_run(family: str, scheduler: str | None) -> None:
    denoising = denoising_of(family, scheduler=scheduler)
    batch = denoising.batch(prompts_of(family), SEEDS)
    weight = last_weight(denoising.module)
    with requires_grad(weight):
        state = denoising.start(batch)
        for i in range(STEPS):
            state = denoising.step(i, state, batch)
        (unrolled,) = torch.autograd.grad(cotangent(state[0]), weight)
        recomputed = checkpointed_gradient(denoising, batch, weight)
    assert torch.allclose(recomputed, unrolled, rtol=1e-5, atol=1e-6 * float(unrolled.abs().max()))


@pytest.mark.parametrize("family, scheduler", [(f, None) for f in FAMILIES] + [("sd", "dpmpp"), ("sd", "ddpm")])
def test_a_repeated_step_is_bit_equal(family: str, scheduler: str | None) -> None:
    denoising = denoising_of(family, scheduler=scheduler)
    batch = denoising.batch(prompts_of(family), SEEDS)
    states = roll(denoising, batch)
    with torch.no_grad():
        for i in (2, 0, STEPS - 1):
            for again, before in zip(denoising.step(i, states[i], batch), states[i + 1], strict=True):
                assert torch.equal(again, before)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_trajectory_does_not_depend_on_the_rest_of_the_batch(family: str) -> None:
    denoising, prompts = denoising_of(family), prompts_of(family)
    both = denoising.batch(prompts, SEEDS)
    alone = denoising.batch(prompts and prompts[1:], SEEDS[1:])
    assert torch.equal(both.latents[1:], alone.latents)
    latents = final_latents(denoising, both)
    assert torch.allclose(latents[1:], final_latents(denoising, alone), rtol=1e-3, atol=1e-4)
    assert not torch.allclose(latents[:1], latents[1:], rtol=1e-2)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_pipeline_is_left_as_it_was(family: str) -> None:
    pipe = pipe_of(family)
    before = pipe.scheduler, dict(pipe.config), dict(pipe.scheduler.config), pipe.scheduler.timesteps.clone()
    denoising = denoising_of(family, scheduler="dpmpp")
    final(denoising, family)
    assert pipe.scheduler is before[0]
    assert dict(pipe.config) == before[1] and dict(pipe.scheduler.config) == before[2]
    assert torch.equal(pipe.scheduler.timesteps, before[3])


def test_denoiser_runs_once_a_step_on_a_doubled_batch() -> None:
    denoising = denoising_of("sd")
    sizes: list[int] = []
    handle = denoising.module.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    try:
        final(denoising, "sd")
        final(denoising_of("sd", guidance_scale=1.0), "sd")
    finally:
        handle.remove()
    assert sizes == [4] * STEPS + [2] * STEPS


def test_another_denoiser_can_take_the_place_of_the_own() -> None:
    denoising = denoising_of("ddpm")
    other = copy.deepcopy(denoising.module)
    with torch.no_grad():
        other.conv_out.weight.mul_(0.5)
    swapped = dataclasses.replace(denoising, module=other)
    assert not torch.allclose(final(swapped, "ddpm"), final(denoising, "ddpm"))


@pytest.mark.parametrize("family", ["sd", "flux", "dit"])
def test_missing_prompts(family: str) -> None:
    denoising = denoising_of(family)
    for prompts in (None, []):
        with pytest.raises(DataError, match="needs a list of prompts"):
            denoising.batch(prompts, SEEDS)
    with pytest.raises(DataError, match="1 prompts for 2 seeds"):
        denoising.batch(["3"], SEEDS)


def test_prompts_for_an_unconditional_model() -> None:
    with pytest.raises(DataError, match="DDIMPipeline is unconditional: it takes no prompts"):
        denoising_of("ddpm").batch(["a fox"], [1])
    with pytest.raises(DataError, match="at least one seed"):
        denoising_of("ddpm").batch(None, [])


@pytest.mark.parametrize(
    "label, message", [("1000", "class 1000 does not exist"), ("clas17", "did you mean 'class17'")]
)
def test_unknown_class(label: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        denoising_of("dit").batch([label], [1])


@pytest.mark.parametrize("family, label", [("dit", "label207"), ("dit", " class207 ")])
def test_class_names_and_numbers_mean_the_same(family: str, label: str) -> None:
    denoising = denoising_of(family)
    named, numbered = denoising.batch([label], [1]), denoising.batch(["207"], [1])
    assert named.cond["class_labels"].tolist() == numbered.cond["class_labels"].tolist() == [207, 1000]


@pytest.mark.parametrize("family, name", [("sd", "dim"), ("sd", "flow_euler"), ("flux", "ddim")])
def test_scheduler_that_does_not_exist_or_fit(family: str, name: str) -> None:
    with pytest.raises(SchedulerError, match=repr(name)):
        denoising_of(family, scheduler=name)


def test_own_scheduler_that_cannot_be_differentiated() -> None:
    from diffusers import PNDMScheduler

    pipe = copy.copy(pipe_of("sd"))
    pipe.scheduler = PNDMScheduler(skip_prk_steps=True, steps_offset=1)
    with pytest.raises(SchedulerError, match=r"PNDMScheduler .* choose scheduler= one of ddim"):
        Denoising.of(pipe, STEPS)
    assert Denoising.of(pipe, STEPS, scheduler="ddim").steps == STEPS


@pytest.mark.parametrize(
    "family, option", [("ddpm", {"guidance_scale": 2.0}), ("dit", {"height": 64}), ("sd", {"width": 15})]
)
def test_options_without_a_meaning(family: str, option: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(option))):
        denoising_of(family, **option)


def test_guidance_of_a_flux_without_guidance_input() -> None:
    pipe = tiny.tiny_flux(guidance_embeds=False)
    with pytest.raises(ConfigError, match="guidance_scale"):
        Denoising.of(pipe, STEPS, guidance_scale=2.0)
    batch = Denoising.of(pipe, STEPS).batch(tiny.PROMPTS, SEEDS)
    assert "guidance" not in batch.cond


def test_other_pipelines_are_refused_with_those_that_work() -> None:
    class FooPipeline:
        pass

    with pytest.raises(ModelError, match=f"FooPipeline are not supported; these are: {', '.join(ADAPTERS)}"):
        Denoising.of(FooPipeline(), STEPS)


def test_train_mode_is_refused() -> None:
    pipe = tiny.tiny_dit()
    pipe.transformer.train()
    with pytest.raises(ModelError, match=r"train mode.*eval\(\)"):
        Denoising.of(pipe, STEPS)


def test_importing_the_module_imports_no_pipeline() -> None:
    code = "import sys, gencompress.domains.diffusion.denoising; print([m for m in sys.modules if m == 'diffusers'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def stock_output(family: str) -> str:
    return "pt" if family in ("ddpm", "dit") else "latent"


def last_weight(module: torch.nn.Module) -> Tensor:
    """The weight of a projection in the middle of the denoiser."""
    weights = [p for name, p in module.named_parameters() if name.endswith(("to_out.0.weight", "net.2.weight"))]
    return weights[len(weights) // 2]


class requires_grad:
    """The parameter as a leaf for the duration of the block; the shared pipelines are otherwise frozen."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight

    def __enter__(self) -> None:
        self.weight.requires_grad_(True)

    def __exit__(self, *_: object) -> None:
        self.weight.requires_grad_(False)


def cotangent(x: Tensor) -> Tensor:
    return (x * torch.randn(x.shape, generator=torch.Generator().manual_seed(3))).sum()


def checkpointed_gradient(denoising: Denoising, batch: Batch, weight: Tensor) -> Tensor:
    states = roll(denoising, batch)
    leaf = states[-1][0].requires_grad_()
    cotangents = [torch.autograd.grad(cotangent(leaf), leaf)[0], *[None] * (len(states[0]) - 1)]
    total = torch.zeros_like(weight)
    for i in reversed(range(denoising.steps)):
        inputs = [t.detach().requires_grad_() for t in states[i]]
        outputs = denoising.step(i, tuple(inputs), batch)
        pairs = [(o, c) for o, c in zip(outputs, cotangents, strict=True) if c is not None]
        found = torch.autograd.grad([o for o, _ in pairs], [weight, *inputs], [c for _, c in pairs], allow_unused=True)
        total = total + found[0]
        cotangents = list(found[1:])
    return total
