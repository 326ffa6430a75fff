"""What the derainer learns from: varied rain, and the rewards of stage 2."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.trainer.methods.small import N, batch, method, record, same, step, weights
from trainer.batch import Batch


class TestRainGain:
    def test_half_of_the_pairs_have_rain_of_another_strength(self):
        rgsud = method(rain_gain=2.0)
        O_r, B_u, _ = batch()
        gains: list[Tensor] = []
        for rgsud.steps in range(200):
            gain = rgsud.prepare(Batch(O_r, B_u)).gain
            assert gain is not None
            gains.append(gain.flatten())
        drawn = torch.cat(gains)
        unchanged = torch.isclose(drawn, torch.ones(()), atol=1e-4)
        assert 0.4 < unchanged.float().mean() < 0.6
        assert 0.499 < drawn.min() < 0.55
        assert 1.9 < drawn.max() < 2.001
        assert abs(drawn.log2().mean()) < 0.1

    def test_the_derainer_sees_it_and_d_does_not(self):
        plain, varied = method(), method(rain_gain=3.0)
        seen = [(record(rgsud.D), step(rgsud, *batch()[:2])) for rgsud in (plain, varied)]
        torch.testing.assert_close(seen[0][0][1], seen[1][0][1])
        assert not same(weights(plain.derainer), weights(varied.derainer))


class TestReinforcement:
    def test_a_reward_that_is_reached_adds_nothing(self):
        O_r, B_u, _ = batch()
        observer = method()
        derained = record(observer.derainer)
        step(observer, O_r, B_u)
        B_r = derained[0][N:]
        with_it, without = method(reinforcement="mean"), method(reinforcement="mean", lambda2=0.0)
        assert step(with_it, O_r, B_u, B_r)["re"].item() == 0.0
        step(without, O_r, B_u, B_r)
        assert same(weights(with_it.derainer), weights(without.derainer))

    @pytest.mark.parametrize("reduction", ["mean", "sum", "psnr"])
    def test_repeated_steps_approach_the_reward(self, reduction: str):
        rgsud = method(
            reinforcement=reduction,
            lambda1=0.0,
            adversarial_weight=0.0,
            derainer_optimizer={"lr": 5e-3},
        )
        O_r, B_u, _ = batch()
        B_rw = 0.5 * O_r
        before = (rgsud.Der(O_r) - B_rw).square().mean().item()
        for _ in range(8):
            step(rgsud, O_r, B_u, B_rw)
        assert (rgsud.Der(O_r) - B_rw).square().mean().item() < 0.8 * before

    def test_reductions_are_of_the_same_error(self):
        O_r, B_u, B_rw = batch()
        mean, total, psnr = (
            step(method(reinforcement=r), O_r, B_u, B_rw)["re"] for r in ("mean", "sum", "psnr")
        )
        torch.testing.assert_close(total, mean * B_rw[0].numel())
        # Jensen: the mean of logarithms is below the logarithm of the mean, and near it here.
        assert -1 < psnr - 10 * torch.log10(mean) < 0

    def test_unrewarded_images_do_not_matter(self):
        O_r, B_u, B_rw = batch()
        rewarded = torch.tensor([True, False, True])
        other = B_rw.clone()
        other[1] = 1 - other[1]
        a, b = method(), method()
        losses = step(a, O_r, B_u, B_rw, rewarded), step(b, O_r, B_u, other, rewarded)
        assert losses[0]["re"] == losses[1]["re"]
        for part in ("derainer", "G", "DEM", "D"):
            assert same(weights(getattr(a, part)), weights(getattr(b, part))), part
        c = method()
        other[0] = 1 - other[0]
        step(c, O_r, B_u, other, rewarded)
        assert not same(weights(a.derainer), weights(c.derainer))

    def test_a_full_mask_is_as_none(self):
        O_r, B_u, B_rw = batch()
        a, b = method(), method()
        step(a, O_r, B_u, B_rw, torch.ones(N, dtype=torch.bool))
        step(b, O_r, B_u, B_rw)
        assert same(weights(a.derainer), weights(b.derainer))

    def test_an_empty_mask_is_a_step_of_the_first_stage(self):
        O_r, B_u, B_rw = batch()
        a, b = method(), method()
        losses = step(a, O_r, B_u, torch.full_like(B_rw, torch.nan), torch.zeros(N, dtype=torch.bool))
        step(b, O_r, B_u)
        assert "re" not in losses
        for part in ("derainer", "G", "DEM", "D"):
            assert same(weights(getattr(a, part)), weights(getattr(b, part))), part

    def test_the_reward_is_the_clean_part_of_the_rainy_image(self):
        rgsud = method()
        fed: list[Tensor] = []
        rgsud.G.register_forward_pre_hook(lambda _module, args: fed.append(args[1].detach().clone()))
        O_r, B_u, B_rw = batch()
        with torch.no_grad():
            estimate = O_r - rgsud.DEM.clean(O_r)
        step(rgsud, O_r, B_u, B_rw, torch.tensor([True, False, True]))
        torch.testing.assert_close(fed[0][[0, 2]], (O_r - B_rw)[[0, 2]])
        torch.testing.assert_close(fed[0][1], estimate[1])

    def test_the_averaged_weights_can_be_the_teacher(self):
        taught, plain = method(teacher=True), method()
        O_r, B_u, B_rw = batch()
        with torch.no_grad():
            own = plain.averaged(O_r).clamp(0, 1)
        assert step(taught, O_r, B_u, B_rw, torch.tensor([True, False, False])) == step(plain, O_r, B_u, own)
        assert same(weights(taught.derainer), weights(plain.derainer))
        assert "re" not in step(method(teacher=True), O_r, B_u)

    def test_a_reward_can_be_held_below_the_rainy_image(self):
        held, plain = method(rain_brightens=True), method()
        O_r, B_u, B_rw = batch()
        assert step(held, O_r, B_u, B_rw) == step(plain, O_r, B_u, torch.minimum(B_rw, O_r))
        assert same(weights(held.derainer), weights(plain.derainer))
        assert "re" not in step(method(rain_brightens=True), O_r, B_u)

    def test_the_switch_can_stay_off(self):
        rgsud = method(sources={1: ["unet"], 2: ["unet"]})
        laid: list[Tensor] = []
        rgsud.G.register_forward_pre_hook(lambda _module, args: laid.append(args[1].detach().clone()))
        O_r, B_u, B_rw = batch()
        with torch.no_grad():
            estimate = rgsud.DEM(O_r)
        assert "re" in step(rgsud, O_r, B_u, B_rw, torch.tensor([True, False, True]))
        torch.testing.assert_close(laid[0], estimate)

    @pytest.mark.parametrize(
        ("source", "clean"),
        [
            ("unet", lambda rgsud, O1, B1, B_u: rgsud.DEM.clean(O1)),
            ("derained", lambda rgsud, O1, B1, B_u: B1),
            ("truth", lambda rgsud, O1, B1, B_u: B_u),
        ],
    )
    def test_the_clean_part_of_the_pseudo_rainy_image(self, source: str, clean: Callable[..., Tensor]):
        rgsud = method(dem_source_stage2=source)
        twin = copy.deepcopy(rgsud)
        extracted, laid = record(rgsud.DEM), []
        rgsud.G.register_forward_pre_hook(lambda _module, args: laid.append(args[1].detach().clone()))
        O_r, B_u, B_rw = batch()
        losses = step(rgsud, O_r, B_u, B_rw)
        with torch.no_grad():
            O1 = twin.G(B_u, O_r - B_rw)
            expected = O1 - clean(twin, O1, twin.Der(O1), B_u)
        torch.testing.assert_close(extracted[0] if source != "truth" else laid[1][N : 2 * N], expected)
        assert all(value.isfinite() for value in losses.values())

    @pytest.mark.parametrize("source", ["derained", "truth"])
    def test_the_first_stage_always_asks_the_unet(self, source: str):
        a, b = method(dem_source_stage2=source), method()
        step(a, *batch()[:2])
        step(b, *batch()[:2])
        assert same(weights(a.G), weights(b.G))
