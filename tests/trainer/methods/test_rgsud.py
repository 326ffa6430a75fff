import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.trainer.methods.small import N, batch, gradients, method, record, same, step, weights
from trainer.methods.rgsud import RGSUD, TERMS, RGSUDSettings
from trainer.models.discriminator import Discriminator
from trainer.models.nafnet import NAFNet, NAFNetSettings


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
        step(rgsud, O_r, B_u, B_rw if stage == 2 else None)
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
        step(rgsud, *batch()[:2])
        assert sum(len(out) for out in rained) == made * N
        assert len(judged[0]) == len(terms) * N


class TestWhoLearnsFromWhat:
    def test_every_network_learns(self):
        rgsud = method()
        modules = (rgsud.derainer, rgsud.G, rgsud.DEM, rgsud.D)
        before = [weights(module) for module in modules]
        step(rgsud, *batch())
        for old, module in zip(before, modules, strict=True):
            changed = [not torch.equal(x, y) for x, y in zip(old, weights(module), strict=True)]
            assert all(changed), type(module)

    def test_the_generators_half_leaves_d_alone(self):
        """With a learning rate of zero D stays as it is, and has the gradients of its own half alone."""
        rgsud, twin = method(discriminator_optimizer={"lr": 0.0}), method(discriminator_optimizer={"lr": 0.0})
        before, judged = weights(rgsud.D), record(rgsud.D)
        O_r, B_u, B_rw = batch()
        step(rgsud, O_r, B_u, B_rw)
        assert same(weights(rgsud.D), before)
        assert all(p.requires_grad for p in rgsud.D.parameters())
        with torch.no_grad():
            O1 = twin.G(B_u, O_r - B_rw)
        loss = 0.5 * (((twin.D(O_r) - 1) ** 2).mean() + (twin.D(O1) ** 2).mean())
        loss.backward()
        for mine, expected in zip(gradients(rgsud.D), gradients(twin.D), strict=True):
            torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-6)
        assert len(judged) == 2

    def test_d_learns_even_after_a_failed_step(self):
        rgsud = method()
        with pytest.raises(RuntimeError):
            step(rgsud, batch()[0], batch()[1][..., :16])
        assert all(p.requires_grad for p in rgsud.D.parameters())

    def test_ds_half_changes_only_d(self):
        """What the others learn does not depend on how D learns."""
        slow, fast = method(discriminator_optimizer={"lr": 0.0}), method(discriminator_optimizer={"lr": 0.1})
        for rgsud in (slow, fast):
            step(rgsud, *batch())
        for part in ("derainer", "G", "DEM"):
            assert same(weights(getattr(slow, part)), weights(getattr(fast, part))), part
        assert not same(weights(slow.D), weights(fast.D))

    @pytest.mark.parametrize("reaches", [True, False])
    def test_d_reaches_the_derainer_where_asked(self, reaches: bool):
        updated = []
        for seed in (1, 2):
            rgsud = method(adversarial_to_derainer=reaches)
            torch.manual_seed(seed)
            rgsud.D.load_state_dict(Discriminator(rgsud.settings.discriminator).state_dict())
            step(rgsud, *batch())
            updated.append((weights(rgsud.derainer), weights(rgsud.G), weights(rgsud.DEM)))
        assert same(updated[0][0], updated[1][0]) is not reaches
        assert not same(updated[0][1], updated[1][1])
        assert not same(updated[0][2], updated[1][2])

    def test_the_derainer_does_not_teach_the_generator(self):
        """Without L_adv and the options, L_Der alone is left: it must not reach G or DEM."""
        rgsud = method(adversarial_weight=0.0)
        step(rgsud, *batch()[:2])
        for gradient in gradients(rgsud.G, rgsud.DEM):
            assert gradient is None or not gradient.any()
        assert any(g is not None and g.any() for g in gradients(rgsud.derainer))

    @pytest.mark.parametrize(("fakes", "count"), [("O1", N), ("all", 4 * N)])
    def test_what_d_learns_from(self, fakes: str, count: int):
        rgsud = method(discriminator_fakes=fakes)
        judged = record(rgsud.D)
        O_r, B_u, _ = batch()
        step(rgsud, O_r, B_u)
        assert len(judged[1]) == N + count


class TestLosses:
    def test_first_stage_losses_by_hand(self):
        rgsud = method()
        twin = copy.deepcopy(rgsud)
        O_r, B_u, _ = batch()
        losses = step(rgsud, O_r, B_u)
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
        values = [step(method(adversarial_terms=s), *batch()[:2])["adv"].item() for s in sets]
        assert len({round(value, 6) for value in values}) == len(sets)
        assert sum(values[: len(TERMS)]) == pytest.approx(values[-1], rel=1e-5)

    def test_self_reconstruction(self):
        """G overlays F(O_r) on B_r also where L_adv does not ask for it."""
        rgsud = method(adversarial_terms=("B_u,F_r",), self_reconstruction=0.5)
        twin = copy.deepcopy(rgsud)
        O_r, B_u, _ = batch()
        losses = step(rgsud, O_r, B_u)
        with torch.no_grad():
            expected = (twin.G(twin.Der(O_r), twin.DEM(O_r)) - O_r).abs().mean()
        torch.testing.assert_close(losses["self"], expected)
        plain = method(adversarial_terms=("B_u,F_r",))
        step(plain, O_r, B_u)
        assert not same(weights(plain.G), weights(rgsud.G))

    def test_clean_identity(self):
        rgsud = method(clean_identity=0.5)
        _, B_u, _ = batch()
        with torch.no_grad():
            expected = rgsud.DEM(B_u).abs().mean()
        torch.testing.assert_close(step(rgsud, *batch()[:2])["identity"], expected)
        plain = method()
        step(plain, *batch()[:2])
        assert not same(weights(plain.DEM), weights(rgsud.DEM))


class TestAverage:
    def test_equals_a_hand_computed_one(self):
        rgsud = method(ema=0.2)
        expected = [value.double() for value in weights(rgsud.averaged)]
        for number in range(4):
            step(rgsud, *batch(number))
            decay = min(0.2, (number + 1) / (number + 11))
            now = weights(rgsud.derainer)
            expected = [decay * e + (1 - decay) * w.double() for e, w in zip(expected, now, strict=True)]
        for e, average in zip(expected, weights(rgsud.averaged), strict=True):
            torch.testing.assert_close(average.double(), e, rtol=1e-5, atol=1e-7)
        assert not same(weights(rgsud.averaged), weights(rgsud.derainer))

    def test_zero_is_off(self):
        rgsud = method(ema=0.0)
        step(rgsud, *batch())
        for average, weight in zip(weights(rgsud.averaged), weights(rgsud.derainer), strict=True):
            torch.testing.assert_close(average, weight, rtol=1e-6, atol=1e-7)


class TestState:
    def test_equal_runs_are_bit_equal(self):
        a, b = method(), method()
        for number in range(3):
            step(a, *batch(number))
            step(b, *batch(number))
        assert same_state(a, b)
        step(b, *batch(9))
        assert not same_state(a, b)

    def test_a_restored_run_goes_on_bit_equal(self):
        original = method()
        for number in range(2):
            step(original, *batch(number))
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
            losses = step(original, *batch(number)), step(restored, *batch(number))
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
    losses, expected = step(lowered, O_r, B_u, reward), step(full, O_r, B_u, reward)
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
    step(plain, *batch())
    step(staged, *batch())
    assert same(weights(plain.derainer), weights(staged.derainer))
