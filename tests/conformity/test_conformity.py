"""torch's operator samples give here what they give there, but for what differences.txt names."""

from __future__ import annotations

import sys

import hypothesis
import pytest
import torch

from tests.conformity.differences import Entry, entries, held_against, run
from tests.conformity.judge import Verdict, judge
from tests.conformity.opinfos import op_infos, our_function
from tests.conformity.samples import samples_of

# By name, not from torch: asking for its samples takes seconds, which only the tests themselves need to spend.
OPS = """
    T __getitem__ __radd__ __rand__ __rmatmul__ __rmod__ __rmul__ __ror__ __rpow__ __rsub__ __rxor__ abs acos add
    all allclose amax amin any arange argmax argmin argsort asin atan bfloat16 bitwise_and bitwise_not
    bitwise_or bitwise_xor bmm bool broadcast_tensors broadcast_to cat ceil chunk clamp clone contiguous cos
    cosh cumprod cumsum diagonal div dot double einsum empty empty_like eq equal erf exp expand expand_as expm1 eye
    flatten flip float floor floor_divide full full_like gather ge gt half index_select int isfinite isinf isnan
    item le linspace log log10 log1p log2 log_softmax logical_and logical_not logical_or logical_xor logsumexp
    long lt mT masked_fill masked_select matmul max maximum mean min minimum mm movedim mul narrow ne neg
    nn.functional.adaptive_avg_pool2d nn.functional.adaptive_max_pool2d nn.functional.avg_pool2d
    nn.functional.batch_norm nn.functional.binary_cross_entropy nn.functional.binary_cross_entropy_with_logits
    nn.functional.conv1d nn.functional.conv2d nn.functional.conv_transpose1d nn.functional.conv_transpose2d
    nn.functional.cross_entropy nn.functional.dropout nn.functional.dropout2d
    nn.functional.elu nn.functional.embedding nn.functional.embedding_bag nn.functional.gelu nn.functional.glu
    nn.functional.group_norm
    nn.functional.hardsigmoid nn.functional.hardswish nn.functional.hardtanh nn.functional.huber_loss
    nn.functional.instance_norm nn.functional.interpolate
    nn.functional.kl_div nn.functional.l1_loss nn.functional.layer_norm nn.functional.leaky_relu
    nn.functional.linear nn.functional.logsigmoid nn.functional.max_pool2d nn.functional.mish
    nn.functional.mse_loss nn.functional.nll_loss nn.functional.normalize nn.functional.one_hot
    nn.functional.pad nn.functional.pixel_shuffle nn.functional.pixel_unshuffle
    nn.functional.prelu nn.functional.relu nn.functional.relu6 nn.functional.rms_norm
    nn.functional.scaled_dot_product_attention
    nn.functional.selu nn.functional.silu nn.functional.smooth_l1_loss nn.functional.softplus
    nn.functional.softsign nonzero norm ones ones_like outer permute pow prod rand_like randint randn randn_like
    reciprocal remainder repeat repeat_interleave reshape roll round rsqrt scatter scatter_add select sigmoid
    sign sin sinh softmax sort split sqrt square squeeze stack std sub sum t take_along_dim tan tanh tile to
    topk trace transpose tril triu trunc unbind unflatten unsqueeze var view where zero_ zeros zeros_like
""".split()


@pytest.mark.parametrize("name", OPS)
def test_samples_agree(name):
    counts, wrong = run(name)
    assert counts["agrees"], f"no sample of {name} agrees: {dict(counts)}"
    assert not wrong, "\n".join(wrong)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", OPS)
def test_all_samples_agree(name):
    counts, wrong = run(name, exhaustive=True)
    assert counts["agrees"], f"no sample of {name} agrees: {dict(counts)}"
    assert not wrong, "\n".join(wrong)


def test_the_ops_are_those_that_both_sides_have():
    ours = sorted({name for name in op_infos() if our_function(name)})
    assert sorted(OPS) == ours


def test_every_entry_is_of_an_op_and_has_a_reason():
    for entry in entries():
        assert entry.op.removesuffix("_") in OPS or entry.op in OPS, entry
        assert len(entry.reason) > 10, entry


def test_asking_for_the_samples_leaves_the_process_as_it_was():
    profile = hypothesis.settings.get_current_profile_name()
    op_infos.cache_clear()
    op_infos()
    assert hypothesis.settings.get_current_profile_name() == profile
    torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark  # would raise while torch forbids it
    assert hasattr(sys.modules.get("expecttest", torch), "__file__")  # no stand-in is left behind


# --- the judge, and the list ---------------------------------------------------------------------------------------


def a_sample(name, dtype="float64", **traits):
    (info,) = op_infos()[name]
    return next(s for s in samples_of(info) if s.dtype == dtype and not s.inplace)


WRONG = {
    "value": lambda x: x.sin() + 1e-6 * (x * 0 + 1),
    "gradient": lambda x: x.sin() + x - x.detach() * 1.0,
    "shape": lambda x: x.sin().unsqueeze(0),
    "dtype": lambda x: x.sin().float(),
    "requires_grad": lambda x: x.detach().sin(),
    "count": lambda x: (x.sin(), x.sin()),
    "kind": lambda x: 1.0,
}


@pytest.mark.parametrize("kind", WRONG)
def test_the_judge_sees_what_is_wrong(kind, monkeypatch):
    sample = a_sample("sin")
    assert judge(sample).kind == "agrees"
    monkeypatch.setattr("tests.conformity.judge.our_function", lambda name: WRONG[kind])
    assert judge(sample).kind == kind


def test_the_judge_tells_a_clear_error_from_a_crash(monkeypatch):
    def raising(error):
        def function(*args):
            raise error

        return lambda name: function

    for error, kind in ((ValueError("sin: no"), "raises"), (AttributeError("no"), "crashes")):
        monkeypatch.setattr("tests.conformity.judge.our_function", raising(error))
        assert judge(a_sample("sin")).kind == kind


def test_the_list_is_red_in_both_directions():
    sample = a_sample("sin")
    entry = Entry("sin", "*", "*", "value", "for this test", False)
    differs, agrees = Verdict("value", "1; torch has 2"), Verdict("agrees")
    assert not held_against([entry], [("sin", sample, differs)], False)
    assert not held_against([], [("sin", sample, agrees)], False)
    assert "differs in value" in held_against([], [("sin", sample, differs)], False)[0]
    some = Entry("sin", "*", "*", "value", "for this test", False, True)
    assert not held_against([some], [("sin", sample, differs), ("sin", sample, agrees)], False)
    assert "no sample differs" in held_against([some], [("sin", sample, agrees)], False)[0]
    assert "agrees; differences.txt says" in held_against([entry], [("sin", sample, agrees)], False)[0]
    assert "differs in dtype" in held_against([entry], [("sin", sample, Verdict("dtype"))], False)[0]
    assert "no sample differs" in held_against([entry], [], False)[0]
    later = Entry("sin", "*", "*", "value", "for this test", True)
    assert not held_against([later], [], False) and held_against([later], [], True)
