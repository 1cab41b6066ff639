import copy
from typing import Any

import pytest

from edgedeploy.compress.attention import spell_out
from edgedeploy.compress.held import finalise, hold, masks_of, share, shared_of

pytestmark = pytest.mark.builds


def holder(**settings: Any) -> Any:
    """A net that is nothing but attention, over 16 numbers in 4 heads, with weights that no symmetry hides."""
    import torch
    from torch import nn

    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(16, 4, **settings)

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return self.attention(*args, **kwargs)

    torch.manual_seed(0)
    net = Holder().eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(std=0.3)
    return net


def spelled_out(net: Any) -> Any:
    net = copy.deepcopy(net)
    assert spell_out(net)
    return net


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kdim", [None, 12])
@pytest.mark.parametrize("mask", [None, "booleans", "numbers", "heads"])
def test_it_computes_what_torchs_own_did(batch_first: bool, bias: bool, kdim: int | None, mask: str | None) -> None:
    import torch

    net = holder(batch_first=batch_first, bias=bias, kdim=kdim, vdim=kdim)
    ours = spelled_out(net)
    queries, keys = torch.randn(3, 5, 16), torch.randn(3, 7, kdim or 16)
    if not batch_first:
        queries, keys = queries.transpose(0, 1), keys.transpose(0, 1)
    forbidden = torch.rand(5, 7) > 0.6
    forbidden[:, 0] = False
    attention = {None: None, "booleans": forbidden, "numbers": torch.randn(5, 7), "heads": torch.randn(12, 5, 7)}[mask]
    absent = torch.zeros(3, 7, dtype=torch.bool)
    absent[1, 4:] = True
    padding = absent if mask in (None, "booleans") else torch.zeros(3, 7).masked_fill(absent, -1e9)
    for given in (
        {"need_weights": False},
        {"need_weights": True},
        {"average_attn_weights": False},
        {"key_padding_mask": padding, "need_weights": False},
        {"key_padding_mask": padding},
    ):
        with torch.no_grad():
            expected, weights = net(queries, keys, keys, attn_mask=attention, **given)
            found, ours_weights = ours(queries, keys, keys, attn_mask=attention, **given)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(ours_weights, weights, atol=1e-6, rtol=1e-5)


def test_one_sequence_alone_needs_no_batch() -> None:
    import torch

    net = holder()
    rows = torch.randn(5, 16)
    expected, weights = net(rows, rows, rows)
    found, ours_weights = spelled_out(net)(rows, rows, rows)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(ours_weights, weights, atol=1e-6, rtol=1e-5)


def test_a_causal_hint_without_its_mask_is_refused_as_torch_does() -> None:
    import torch

    rows = torch.randn(1, 5, 16)
    with pytest.raises(RuntimeError, match="Need attn_mask"):
        spelled_out(holder(batch_first=True))(rows, rows, rows, is_causal=True)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.parametrize("nested", [True, False])
def test_an_encoder_goes_through_it_and_past_its_own_short_cut(nested: bool) -> None:
    import torch
    from torch import nn

    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    net = nn.TransformerEncoder(layer, 2, enable_nested_tensor=nested).eval()
    ours = spelled_out(net)
    rows = torch.randn(3, 7, 16)
    causal = nn.Transformer.generate_square_subsequent_mask(7)
    absent = torch.zeros(3, 7, dtype=torch.bool)
    absent[1, 4:] = True
    calls: list[Any] = []
    ours.layers[1].self_attn.query.register_forward_pre_hook(lambda *given: calls.append(given))
    with torch.no_grad():
        for given in ({}, {"mask": causal, "is_causal": True}, {"src_key_padding_mask": absent}):
            expected, found = net(rows, **given), ours(rows, **given)
            torch.testing.assert_close(found[~absent], expected[~absent], atol=2e-6, rtol=1e-5)
    assert len(calls) == 3


def test_what_is_held_of_the_packed_weights_is_held_of_the_parts() -> None:
    import torch

    net = holder()
    mask = torch.rand(48, 16) > 0.5
    hold(net, {"attention.in_proj_weight": mask})
    share(net, {"attention.out_proj.weight": torch.arange(256).view(16, 16) // 32})
    shared = net.attention.out_proj.weight.detach().clone()
    renamed = spell_out(net)
    assert renamed["attention.key.weight"] == "attention.in_proj_weight"
    assert set(masks_of(net)) == {f"attention.{part}.weight" for part in ("query", "key", "value")}
    assert torch.equal(torch.cat([masks_of(net)[name] for name in renamed if name.endswith("weight")]), mask)
    assert set(shared_of(net)) == {"attention.out_proj.weight"}
    finalise(net)
    assert torch.equal(net.attention.out_proj.weight, shared)


def test_attention_used_twice_stays_one_and_what_cannot_be_spelled_out_stays_packed() -> None:
    from torch import nn

    net: Any = nn.ModuleDict({"a": nn.MultiheadAttention(8, 2), "b": nn.MultiheadAttention(8, 2, add_bias_kv=True)})
    net["c"] = net["a"]
    net["d"] = nn.MultiheadAttention(8, 2).requires_grad_(False)
    spell_out(net, ["a", "b", "c"])
    assert net["a"] is net["c"]
    assert isinstance(net["b"], nn.MultiheadAttention)
    packed = net["d"]
    assert isinstance(packed, nn.MultiheadAttention)
    spell_out(net)
    assert net["d"] is not packed
    assert not any(parameter.requires_grad for parameter in net["d"].parameters())
