import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trainer.methods.rgsud import RGSUD, TERMS, RGSUDSettings
from trainer.models.discriminator import Discriminator
from trainer.models.nafnet import NAFNet, NAFNetSettings

N = 3
TINY: dict[str, Any] = {
    "generator": {"width": 8, "blocks": 1},
    "dem": {"width": 4, "levels": 2},
    "discriminator": {"width": 4, "layers": 2},
}


def ripe(module: nn.Module, seed: int) -> None:
    """Weights as after some training: none of those that start at zero is."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if not parameter.any():
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))


def method(**changes: Any) -> RGSUD:
    """The same weights whatever the settings."""
    torch.manual_seed(0)
    derainer = NAFNet(NAFNetSettings(width=4, encoder=(1,), middle=1, decoder=(1,)))
    rgsud = RGSUD(RGSUDSettings.model_validate(TINY | changes), derainer)
    for seed, module in enumerate((rgsud.derainer, rgsud.G, rgsud.DEM)):
        ripe(module, seed)
    rgsud.averaged.load_state_dict(rgsud.derainer.state_dict())
    return rgsud


def batch(number: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """O_r, B_u and B_rw."""
    images = torch.rand(3, N, 3, 32, 32, generator=torch.Generator().manual_seed(number))
    return images[0], images[1], images[2]


def weights(module: nn.Module) -> list[Tensor]:
    return [value.detach().clone() for value in module.state_dict().values()]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    assert len(a) == len(b) > 0
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def gradients(*modules: nn.Module) -> list[Tensor | None]:
    return [None if p.grad is None else p.grad.clone() for m in modules for p in m.parameters()]


def record(module: nn.Module) -> list[Tensor]:
    """What the module returns from now on, call by call."""
    outputs: list[Tensor] = []
    module.register_forward_hook(lambda _module, _args, out: outputs.append(out.detach().clone()))
    return outputs


def test_paper_defaults():
    s = RGSUDSettings()
    assert (s.lambda1, s.lambda2) == (1.0, 0.8)
    assert s.adversarial_terms == TERMS
    assert s.derainer_optimizer.lr == 2e-4
    assert s.derainer_optimizer.betas == (0.9, 0.999)
    assert s.generator.blocks == 6


class TestCost:
    @pytest.mark.parametrize("stage", [1, 2])
    def test_no_image_is_made_twice(self, stage: int):
        rgsud = method()
        derained, rained, judged = record(rgsud.derainer), record(rgsud.G), record(rgsud.D)
        O_r, B_u, B_rw = batch()
        rgsud.step(O_r, B_u, B_rw if stage == 2 else None)
        assert [len(out) for out in derained] == [2 * N]
        assert sum(len(out) for out in rained) == 4 * N
        # The generator's half judges four fakes, D's own a real and a fake.
        assert [len(out) for out in judged] == [4 * N, 2 * N]

    @pytest.mark.parametrize(
        ("terms", "made"), [(("B_u,F_r",), 1), (("B1,F_1",), 2), (("B_r,F_r", "B_u,F_r"), 2)]
    )
    def test_only_the_terms_asked_for_are_made(self, terms: tuple[str, ...], made: int):
        rgsud = method(adversarial_terms=terms)
        rained, judged = record(rgsud.G), record(rgsud.D)
        rgsud.step(*batch()[:2])
        assert sum(len(out) for out in rained) == made * N
        assert len(judged[0]) == len(terms) * N


class TestWhoLearnsFromWhat:
    def test_every_network_learns(self):
        rgsud = method()
        modules = (rgsud.derainer, rgsud.G, rgsud.DEM, rgsud.D)
        before = [weights(module) for module in modules]
        rgsud.step(*batch())
        for old, module in zip(before, modules, strict=True):
            changed = [not torch.equal(x, y) for x, y in zip(old, weights(module), strict=True)]
            assert all(changed), type(module)

    def test_the_generators_half_leaves_d_alone(self):
        rgsud = method()
        before = weights(rgsud.D)
        rgsud._update_generator_and_derainer(*batch(), None)
        assert same(weights(rgsud.D), before)
        assert all(p.grad is None and p.requires_grad for p in rgsud.D.parameters())

    def test_d_learns_even_after_a_failed_step(self):
        rgsud = method()
        with pytest.raises(RuntimeError):
            rgsud.step(batch()[0], batch()[1][..., :16])
        assert all(p.requires_grad for p in rgsud.D.parameters())

    def test_ds_half_changes_only_d(self):
        rgsud = method()
        others = (rgsud.derainer, rgsud.G, rgsud.DEM)
        O_r, B_u, B_rw = batch()
        _, O1 = rgsud._update_generator_and_derainer(O_r, B_u, B_rw, None)
        assert not O1.requires_grad
        weights_before = [weights(module) for module in others]
        gradients_before = gradients(*others)
        d_before = weights(rgsud.D)
        rgsud._update_discriminator(O_r, O1)
        assert all(same(weights(m), w) for m, w in zip(others, weights_before, strict=True))
        for now, before in zip(gradients(*others), gradients_before, strict=True):
            assert now is None if before is None else torch.equal(now, before)
        assert not same(weights(rgsud.D), d_before)

    @pytest.mark.parametrize("reaches", [True, False])
    def test_d_reaches_the_derainer_where_asked(self, reaches: bool):
        updated = []
        for seed in (1, 2):
            rgsud = method(adversarial_to_derainer=reaches)
            torch.manual_seed(seed)
            rgsud.D.load_state_dict(Discriminator(rgsud.settings.discriminator).state_dict())
            rgsud.step(*batch())
            updated.append((weights(rgsud.derainer), weights(rgsud.G), weights(rgsud.DEM)))
        assert same(updated[0][0], updated[1][0]) is not reaches
        assert not same(updated[0][1], updated[1][1])
        assert not same(updated[0][2], updated[1][2])

    def test_the_derainer_does_not_teach_the_generator(self):
        """Without L_adv and the options, L_Der alone is left: it must not reach G or DEM."""
        rgsud = method(adversarial_weight=0.0)
        rgsud.step(*batch()[:2])
        for gradient in gradients(rgsud.G, rgsud.DEM):
            assert gradient is None or not gradient.any()
        assert any(g is not None and g.any() for g in gradients(rgsud.derainer))

    @pytest.mark.parametrize(("fakes", "count"), [("O1", N), ("all", 4 * N)])
    def test_what_d_learns_from(self, fakes: str, count: int):
        rgsud = method(discriminator_fakes=fakes)
        judged = record(rgsud.D)
        O_r, B_u, _ = batch()
        rgsud.step(O_r, B_u)
        assert len(judged[1]) == N + count


class TestLosses:
    def test_first_stage_losses_by_hand(self):
        rgsud = method()
        twin = copy.deepcopy(rgsud)
        O_r, B_u, _ = batch()
        losses = rgsud.step(O_r, B_u)
        with torch.no_grad():
            F_r = twin.DEM(O_r)
            O1 = twin.G(B_u, F_r)
            B1, B_r, F_1 = twin.Der(O1), twin.Der(O_r), twin.DEM(O1)
            fakes = (O1, twin.G(B_r, F_r), twin.G(B_r, F_1), twin.G(B1, F_1))
            adv = sum(((twin.D(fake) - 1) ** 2).mean() for fake in fakes)
            psnr = (10 * torch.log10(((B1 - B_u) ** 2).mean(dim=(1, 2, 3)) + 1e-8)).mean()
            d = 0.5 * (((twin.D(O_r) - 1) ** 2).mean() + (twin.D(O1) ** 2).mean())
        assert losses.keys() == {"adv", "psnr", "ssim", "D"}
        torch.testing.assert_close(losses["adv"], adv)
        torch.testing.assert_close(losses["psnr"], psnr)
        torch.testing.assert_close(losses["D"], d)
        assert all(value.shape == () and not value.requires_grad for value in losses.values())

    def test_every_set_of_terms_is_its_own_loss(self):
        sets = [(term,) for term in TERMS] + [TERMS[:2], TERMS[1:], TERMS]
        values = [method(adversarial_terms=s).step(*batch()[:2])["adv"].item() for s in sets]
        assert len({round(value, 6) for value in values}) == len(sets)
        assert sum(values[: len(TERMS)]) == pytest.approx(values[-1], rel=1e-5)

    def test_self_reconstruction(self):
        """G overlays F(O_r) on B_r also where L_adv does not ask for it."""
        rgsud = method(adversarial_terms=("B_u,F_r",), self_reconstruction=0.5)
        twin = copy.deepcopy(rgsud)
        O_r, B_u, _ = batch()
        losses = rgsud.step(O_r, B_u)
        with torch.no_grad():
            expected = (twin.G(twin.Der(O_r), twin.DEM(O_r)) - O_r).abs().mean()
        torch.testing.assert_close(losses["self"], expected)
        plain = method(adversarial_terms=("B_u,F_r",))
        plain.step(O_r, B_u)
        assert not same(weights(plain.G), weights(rgsud.G))

    def test_clean_identity(self):
        rgsud = method(clean_identity=0.5)
        _, B_u, _ = batch()
        with torch.no_grad():
            expected = rgsud.DEM(B_u).abs().mean()
        torch.testing.assert_close(rgsud.step(*batch()[:2])["identity"], expected)
        plain = method()
        plain.step(*batch()[:2])
        assert not same(weights(plain.DEM), weights(rgsud.DEM))


class TestRainGain:
    def test_half_of_the_pairs_have_rain_of_another_strength(self):
        rgsud = method(rain_gain=2.0)
        _, B_u, O1 = batch()
        gains: list[Tensor] = []
        for rgsud.steps in range(200):
            gain = (rgsud._varied(B_u, O1) - B_u) / (O1 - B_u)
            gains.append(gain.flatten(1).median(dim=1).values)
        drawn = torch.cat(gains)
        unchanged = torch.isclose(drawn, torch.ones(()), atol=1e-4)
        assert 0.4 < unchanged.float().mean() < 0.6
        assert 0.499 < drawn.min() < 0.55
        assert 1.9 < drawn.max() < 2.001
        assert abs(drawn.log2().mean()) < 0.1

    def test_the_derainer_sees_it_and_d_does_not(self):
        plain, varied = method(), method(rain_gain=3.0)
        seen = [(record(rgsud.D), rgsud.step(*batch()[:2])) for rgsud in (plain, varied)]
        torch.testing.assert_close(seen[0][0][1], seen[1][0][1])
        assert not same(weights(plain.derainer), weights(varied.derainer))


class TestReinforcement:
    def test_a_reward_that_is_reached_adds_nothing(self):
        O_r, B_u, _ = batch()
        observer = method()
        derained = record(observer.derainer)
        observer.step(O_r, B_u)
        B_r = derained[0][N:]
        with_it, without = method(reinforcement="mean"), method(reinforcement="mean", lambda2=0.0)
        assert with_it.step(O_r, B_u, B_r)["re"].item() == 0.0
        without.step(O_r, B_u, B_r)
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
            rgsud.step(O_r, B_u, B_rw)
        assert (rgsud.Der(O_r) - B_rw).square().mean().item() < 0.8 * before

    def test_reductions_are_of_the_same_error(self):
        O_r, B_u, B_rw = batch()
        mean, total, psnr = (
            method(reinforcement=r).step(O_r, B_u, B_rw)["re"] for r in ("mean", "sum", "psnr")
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
        losses = a.step(O_r, B_u, B_rw, rewarded), b.step(O_r, B_u, other, rewarded)
        assert losses[0]["re"] == losses[1]["re"]
        for part in ("derainer", "G", "DEM", "D"):
            assert same(weights(getattr(a, part)), weights(getattr(b, part))), part
        c = method()
        other[0] = 1 - other[0]
        c.step(O_r, B_u, other, rewarded)
        assert not same(weights(a.derainer), weights(c.derainer))

    def test_a_full_mask_is_as_none(self):
        O_r, B_u, B_rw = batch()
        a, b = method(), method()
        a.step(O_r, B_u, B_rw, torch.ones(N, dtype=torch.bool))
        b.step(O_r, B_u, B_rw)
        assert same(weights(a.derainer), weights(b.derainer))

    def test_an_empty_mask_is_a_step_of_the_first_stage(self):
        O_r, B_u, B_rw = batch()
        a, b = method(), method()
        losses = a.step(O_r, B_u, torch.full_like(B_rw, torch.nan), torch.zeros(N, dtype=torch.bool))
        b.step(O_r, B_u)
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
        rgsud.step(O_r, B_u, B_rw, torch.tensor([True, False, True]))
        torch.testing.assert_close(fed[0][[0, 2]], (O_r - B_rw)[[0, 2]])
        torch.testing.assert_close(fed[0][1], estimate[1])

    def test_the_averaged_weights_can_be_the_teacher(self):
        taught, plain = method(teacher=True), method()
        O_r, B_u, B_rw = batch()
        with torch.no_grad():
            own = plain.averaged(O_r).clamp(0, 1)
        assert taught.step(O_r, B_u, B_rw, torch.tensor([True, False, False])) == plain.step(O_r, B_u, own)
        assert same(weights(taught.derainer), weights(plain.derainer))
        assert "re" not in method(teacher=True).step(O_r, B_u)

    def test_a_reward_can_be_held_below_the_rainy_image(self):
        held, plain = method(rain_brightens=True), method()
        O_r, B_u, B_rw = batch()
        assert held.step(O_r, B_u, B_rw) == plain.step(O_r, B_u, torch.minimum(B_rw, O_r))
        assert same(weights(held.derainer), weights(plain.derainer))
        assert "re" not in method(rain_brightens=True).step(O_r, B_u)

    def test_the_switch_can_stay_off(self):
        rgsud = method(dem_switch=False)
        extracted = record(rgsud.DEM)
        O_r, B_u, B_rw = batch()
        with torch.no_grad():
            estimate = rgsud.DEM(O_r)
        extracted.clear()
        assert "re" in rgsud.step(O_r, B_u, B_rw, torch.tensor([True, False, True]))
        torch.testing.assert_close(extracted[0], estimate)

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
        extracted = record(rgsud.DEM)
        O_r, B_u, B_rw = batch()
        losses = rgsud.step(O_r, B_u, B_rw)
        with torch.no_grad():
            O1 = twin.G(B_u, O_r - B_rw)
            expected = O1 - clean(twin, O1, twin.Der(O1), B_u)
        torch.testing.assert_close(extracted[1], expected)
        assert all(value.isfinite() for value in losses.values())

    @pytest.mark.parametrize("source", ["derained", "truth"])
    def test_the_first_stage_always_asks_the_unet(self, source: str):
        a, b = method(dem_source_stage2=source), method()
        a.step(*batch()[:2])
        b.step(*batch()[:2])
        assert same(weights(a.G), weights(b.G))


class TestAverage:
    def test_equals_a_hand_computed_one(self):
        rgsud = method(ema=0.2)
        expected = [value.double() for value in weights(rgsud.averaged)]
        for number in range(4):
            rgsud.step(*batch(number))
            decay = min(0.2, (number + 1) / (number + 11))
            now = weights(rgsud.derainer)
            expected = [decay * e + (1 - decay) * w.double() for e, w in zip(expected, now, strict=True)]
        for e, average in zip(expected, weights(rgsud.averaged), strict=True):
            torch.testing.assert_close(average.double(), e, rtol=1e-5, atol=1e-7)
        assert not same(weights(rgsud.averaged), weights(rgsud.derainer))

    def test_zero_is_off(self):
        rgsud = method(ema=0.0)
        rgsud.step(*batch())
        for average, weight in zip(weights(rgsud.averaged), weights(rgsud.derainer), strict=True):
            torch.testing.assert_close(average, weight, rtol=1e-6, atol=1e-7)


class TestState:
    def test_equal_runs_are_bit_equal(self):
        a, b = method(), method()
        for number in range(3):
            a.step(*batch(number))
            b.step(*batch(number))
        assert same_state(a, b)
        b.step(*batch(9))
        assert not same_state(a, b)

    def test_a_restored_run_goes_on_bit_equal(self):
        original = method()
        for number in range(2):
            original.step(*batch(number))
        file = io.BytesIO()
        torch.save(original.state_dict(), file)
        file.seek(0)

        torch.manual_seed(99)
        restored = RGSUD(
            original.settings, NAFNet(NAFNetSettings(width=4, encoder=(1,), middle=1, decoder=(1,)))
        )
        restored.load_state_dict(torch.load(file, weights_only=True))
        assert restored.steps == 2
        for number in (2, 3):
            losses = original.step(*batch(number)), restored.step(*batch(number))
            assert losses[0] == losses[1]
        assert same_state(original, restored)
        assert same(weights(original.averaged), weights(restored.averaged))


def same_state(a: RGSUD, b: RGSUD) -> bool:
    """Whether weights and moments are equal to the bit."""

    def flat(value: Any) -> list[Any]:
        if isinstance(value, dict):
            return [leaf for key in sorted(value, key=str) for leaf in flat(value[key])]
        return [leaf for item in value for leaf in flat(item)] if isinstance(value, list | tuple) else [value]

    pairs = list(zip(flat(a.state_dict()), flat(b.state_dict()), strict=True))
    return all(torch.equal(x, y) if isinstance(x, Tensor) else x == y for x, y in pairs)


@pytest.mark.parametrize("stage", [1, 2])
def test_bfloat16_stays_close_to_float32(stage: int):
    lowered, full = method(precision="bfloat16"), method()
    O_r, B_u, B_rw = batch()
    reward = B_rw if stage == 2 else None
    losses, expected = lowered.step(O_r, B_u, reward), full.step(O_r, B_u, reward)
    assert losses["adv"].float() != expected["adv"]
    for name, value in losses.items():
        assert value.float().item() == pytest.approx(expected[name].item(), rel=0.03, abs=0.03), name
    for part in ("derainer", "G", "DEM", "D", "averaged"):
        assert all(value.isfinite().all() for value in weights(getattr(lowered, part))), part
        assert all(value.dtype == torch.float32 for value in weights(getattr(lowered, part))), part


def test_a_derainer_may_return_a_sequence():
    class Stages(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, image: Tensor) -> list[Tensor]:
            return [self.inner(image), torch.full_like(image, torch.nan)]

    plain = method()
    staged = RGSUD(plain.settings, Stages(copy.deepcopy(plain.derainer)))
    for part in ("G", "DEM", "D"):
        getattr(staged, part).load_state_dict(getattr(plain, part).state_dict())
    plain.step(*batch())
    staged.step(*batch())
    assert same(weights(plain.derainer), weights(staged.derainer))
