"""Training on found rain, against the formulas written out."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from rgsud_core.degradation.rain import RainModel
from tests.trainer.methods.small import N, batch, ripe, same, step, weights
from trainer.methods.losses import psnr_loss, ssim_loss
from trainer.methods.rgsud import RGSUD, RGSUDSettings
from trainer.methods.sources import RewardSmoothSettings, rain_before
from trainer.models.nafnet import NAFNet, NAFNetSettings


def smooth(**changes: Any) -> RewardSmoothSettings:
    return RewardSmoothSettings(name="reward_smooth", **changes)


def method(**changes: Any) -> RGSUD:
    torch.manual_seed(0)
    derainer = NAFNet(NAFNetSettings(width=4, encoder=(1,), middle=1, decoder=(1,)))
    ripe(derainer, 0)
    parts = {"sources": {1: ["flat"], 2: ["reward_smooth", "flat"]}, "overlay": "add", "discriminator": None}
    return RGSUD(RGSUDSettings.model_validate(parts | changes), derainer)


def rain() -> Tensor:
    return 0.5 * torch.rand(N, 1, 32, 32, generator=torch.Generator().manual_seed(7))


def inputs(made: RGSUD) -> list[Tensor]:
    """What the derainer is shown from now on, call by call."""
    shown: list[Tensor] = []
    made.derainer.register_forward_pre_hook(lambda _module, args: shown.append(args[0].detach().clone()))
    return shown


def test_stage_1_derains_clean_crops_under_found_rain() -> None:
    made, (O_r, B_u, _), R = method(), batch(), rain()
    expected = made.Der((B_u + R).clamp(0, 1)).detach()
    shown = inputs(made)
    losses = step(made, O_r, B_u, R=R)
    torch.testing.assert_close(shown, [(B_u + R).clamp(0, 1)])
    torch.testing.assert_close(losses["psnr"], psnr_loss(expected, B_u))
    torch.testing.assert_close(losses["ssim"], ssim_loss(expected, B_u))
    assert set(losses) == {"psnr", "ssim"}


def test_half_of_the_crops_have_rain_of_another_strength() -> None:
    made, (O_r, B_u, _), R = method(rain_gain=2.0), batch(), rain() / 4
    B_u = B_u / 2  # so that nothing is cut off
    shown = inputs(made)
    for _ in range(40):
        step(made, O_r, B_u, R=R)
    gains = torch.stack([((image - B_u) / R).mean(dim=(1, 2, 3)) for image in shown]).flatten()
    plain = (gains - 1).abs() < 1e-4
    assert 0.3 < plain.float().mean() < 0.7
    assert 0.5 <= gains.min() < 0.7
    assert 1.5 < gains.max() <= 2.0


def test_rain_that_is_blended_in_darkens_what_is_brighter() -> None:
    made, (O_r, B_u, _), R = method(overlay="blend", radiance=0.6), batch(), rain()
    shown = inputs(made)
    step(made, O_r, B_u, R=R)
    torch.testing.assert_close(shown, [(1 - R) * B_u + R * 0.6])
    assert ((shown[0] < B_u) == ((B_u > 0.6) & (R > 0))).float().mean() > 0.99


def scene(*, rough: float = 0.0) -> Tensor:
    """A gradient, N,3,32,32, with grey noise of that strength."""
    ramp = torch.linspace(0.2, 0.3, 32).expand(N, 3, 32, 32)
    noise = torch.randn(N, 1, 32, 32, generator=torch.Generator().manual_seed(3))
    return (ramp + rough * noise).clamp(0, 1)


def streaks() -> Tensor:
    """Light of three vertical streaks, N,1,32,32."""
    light = torch.zeros(N, 1, 32, 32)
    light[..., 4:28, [6, 15, 24]] = 0.3
    return light


class TestRainBeforeAReward:
    def test_before_a_smooth_scene_it_is_the_rain(self) -> None:
        light, share = rain_before(scene(), scene() + streaks(), smooth())
        assert (light.shape, share.shape) == ((N, 1, 32, 32), (N,))
        assert share.min() == 1
        torch.testing.assert_close(light, streaks(), atol=0.01, rtol=0)

    def test_what_the_reward_left_of_a_streak_counts_as_rain(self) -> None:
        half = scene() + 0.5 * streaks()
        light, _ = rain_before(half, scene() + streaks(), smooth(detail=0.1))
        on, taken = streaks() > 0, 0.5 * streaks()
        assert light[on].mean() > 1.4 * taken[on].mean()

    @pytest.mark.parametrize("case", ["rough scene", "more detail than was taken", "bright"])
    def test_where_it_cannot_be_told_from_the_scene_there_is_none(self, case: str) -> None:
        reward, added = scene(), streaks()
        settings = smooth()
        if case == "rough scene":
            reward = scene(rough=0.1)
        elif case == "more detail than was taken":
            reward, added = scene(rough=0.02), streaks() / 30
        else:
            reward = scene() + 0.6
        light, share = rain_before(reward, reward + added, settings)
        assert share.max() == 0
        assert light.max() == 0

    def test_it_ends_where_the_scene_is_rough(self) -> None:
        reward = torch.cat((scene(), scene(rough=0.2)), dim=3)
        wide = torch.cat((streaks(), streaks()), dim=3)
        light, share = rain_before(reward, reward + wide, smooth(window=9))
        assert 0.2 < share.min() <= share.max() < 0.6
        assert light[..., 40:].max() == 0
        assert light[..., :24].max() > 0.25

    def test_of_rain_that_is_blended_in_it_is_the_opacity(self) -> None:
        image = (1 - streaks()) * scene() + streaks() * 0.7
        light, share = rain_before(scene(), image, smooth(), RainModel(0.7))
        assert share.min() == 1
        torch.testing.assert_close(light, streaks(), atol=0.02, rtol=0)
        _, share = rain_before(scene() + 0.3, image, smooth(), RainModel(0.7))
        assert share.max() == 0  # too near to the rain's own radiance


class TestStage2:
    def test_crops_whose_reward_is_smooth_have_its_rain_and_the_others_found_rain(self) -> None:
        made, (_, B_u, _), R = method(), batch(), rain()
        B_rw = torch.cat((scene()[:1], scene(rough=0.2)[1:]))
        O_r = B_rw + streaks()
        light, _ = rain_before(B_rw, O_r, smooth())
        shown = inputs(made)
        step(made, O_r, B_u, B_rw, R=R)
        pairs, real = shown[0][:N], shown[0][N:]
        torch.testing.assert_close(pairs[0], (B_u + light).clamp(0, 1)[0])
        torch.testing.assert_close(pairs[1:], (B_u + R).clamp(0, 1)[1:])
        torch.testing.assert_close(real, O_r)

    def test_a_crop_without_reward_keeps_found_rain_and_has_no_L_re(self) -> None:
        made, (_, B_u, _), R = method(), batch(), rain()
        B_rw, O_r = scene(), scene() + streaks()
        B_r = made.Der(O_r).detach()
        rewarded = torch.tensor([True, False, True])
        shown = inputs(made)
        losses = step(made, O_r, B_u, B_rw, rewarded, R)
        torch.testing.assert_close(shown[0][1], (B_u + R).clamp(0, 1)[1])
        torch.testing.assert_close(losses["re"], psnr_loss(B_r[rewarded], B_rw[rewarded]))
        assert "re" not in step(made, O_r, B_u, B_rw, torch.zeros(N, dtype=torch.bool), R)

    def test_without_lambda2_the_real_crops_are_not_derained(self) -> None:
        made, (O_r, B_u, B_rw) = method(lambda2=0.0), batch()
        shown = inputs(made)
        losses = step(made, O_r, B_u, B_rw, R=rain())
        assert len(shown[0]) == N
        assert set(losses) == {"psnr", "ssim"}

    def test_the_rewards_teach(self) -> None:
        O_r, B_u, B_rw = batch()
        with_rewards, without = method(sources=["flat"]), method(sources=["flat"])
        step(with_rewards, O_r, B_u, B_rw, R=rain())
        step(without, O_r, B_u, R=rain())
        assert not same(weights(with_rewards.derainer), weights(without.derainer))

    def test_the_teacher_stands_in_for_the_reward(self) -> None:
        O_r, B_u, B_rw = batch()
        made = method(teacher=True)
        expected = psnr_loss(made.Der(O_r).detach(), made.averaged(O_r).clamp(0, 1))
        torch.testing.assert_close(step(made, O_r, B_u, B_rw, R=rain())["re"], expected)


def test_a_restored_method_goes_on_as_the_original() -> None:
    original = method(rain_gain=2.0)
    step(original, *batch(0), R=rain())
    restored = method(rain_gain=2.0)
    restored.load_state_dict(copy.deepcopy(original.state_dict()))
    for made in (original, restored):
        step(made, *batch(1), R=rain())
    assert same(weights(original.derainer), weights(restored.derainer))
    assert same(weights(original.averaged), weights(restored.averaged))
