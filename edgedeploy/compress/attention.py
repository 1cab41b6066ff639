"""Attention as separate linear layers, for torch's own packs them so that neither heads nor channels can go."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from edgedeploy.compress.held import follow

if TYPE_CHECKING:
    import torch
    from torch import nn


def spell_out(model: nn.Module, names: Iterable[str] | None = None) -> dict[str, str]:
    """Put in place of each nn.MultiheadAttention, or of those named, one of `query`, `key`, `value` and `out_proj`.

    It computes the same, takes the same arguments, and goes by its layers' widths and its `heads`, so that both may
    be cut. Masks with an axis for heads are taken while all heads are there. Whatever is held of the weights follows.
    Those with added biases or zeros among keys (`add_bias_kv`, `add_zero_attn`) are left as they are. Returns the new
    names of parameters, each with the one that it was a part of.
    """
    from torch import nn

    wanted = None if names is None else set(names)
    renamed: dict[str, str] = {}
    made: dict[nn.Module, nn.Module] = {}
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if not (name and _can_be_spelled_out(module)) or (wanted is not None and name not in wanted):
            continue
        assert isinstance(module, nn.MultiheadAttention)
        known = module in made
        if not known:
            made[module] = _spelled_out()(module)
        model.set_submodule(name, made[module])
        if known:
            continue
        for part in ("query", "key", "value"):
            packed = "in_proj_weight" if module._qkv_same_embed_dim else f"{part[0]}_proj_weight"
            renamed[f"{name}.{part}.weight"] = f"{name}.{packed}"
            if module.in_proj_bias is not None:
                renamed[f"{name}.{part}.bias"] = f"{name}.in_proj_bias"
    if renamed:
        for module in model.modules():
            if isinstance(module, nn.TransformerEncoder):
                module.use_nested_tensor = False  # only torch's own attention takes nested tensors
        follow(model, model, renamed)
    return renamed


def _can_be_spelled_out(module: nn.Module) -> bool:
    from torch import nn

    return isinstance(module, nn.MultiheadAttention) and module.bias_k is None and not module.add_zero_attn


@functools.cache
def _spelled_out() -> Any:
    import torch
    from torch import nn
    from torch.nn import functional as F

    class Attention(nn.Module):
        """Multi-head attention (Vaswani et al., arXiv:1706.03762, section 3.2) with the arguments of torch's own."""

        # What nn.TransformerEncoderLayer looks for before it goes past the modules to a kernel of its own.
        in_proj_bias = None
        _qkv_same_embed_dim = False

        def __init__(self, source: nn.MultiheadAttention) -> None:
            super().__init__()
            width = source.embed_dim
            matrices: Any = (source.q_proj_weight, source.k_proj_weight, source.v_proj_weight)
            if source._qkv_same_embed_dim:
                matrices = source.in_proj_weight.chunk(3)
            biases = source.in_proj_bias.chunk(3) if source.in_proj_bias is not None else (None, None, None)
            self.query, self.key, self.value = (
                _linear(matrix, bias, source) for matrix, bias in zip(matrices, biases, strict=True)
            )
            self.out_proj = _linear(source.out_proj.weight, source.out_proj.bias, source)
            self.heads: int = source.num_heads
            self.scale = (width // source.num_heads) ** -0.5  # stays, whatever width the heads are cut to
            self.dropout = source.dropout
            self.batch_first = source.batch_first
            self.train(source.training)

        @property
        def num_heads(self) -> int:
            return self.heads

        def forward(
            self,
            query: torch.Tensor,
            key: torch.Tensor,
            value: torch.Tensor,
            key_padding_mask: torch.Tensor | None = None,
            need_weights: bool = True,
            attn_mask: torch.Tensor | None = None,
            average_attn_weights: bool = True,
            is_causal: bool = False,
        ) -> tuple[torch.Tensor, torch.Tensor | None]:
            """As nn.MultiheadAttention; `is_causal` only repeats what `attn_mask` says."""
            if is_causal and attn_mask is None:
                raise RuntimeError("Need attn_mask if specifying the is_causal hint.")
            alone = query.ndim == 2
            if alone:
                query, key, value = (one.unsqueeze(0) for one in (query, key, value))
            elif not self.batch_first:
                query, key, value = (one.transpose(0, 1) for one in (query, key, value))
            queries, keys, values = (
                layer(one).unflatten(-1, (self.heads, -1)).transpose(1, 2)
                for layer, one in ((self.query, query), (self.key, key), (self.value, value))
            )
            mask = self._mask(attn_mask, key_padding_mask, queries)
            dropout = self.dropout if self.training else 0.0
            weights = None
            if need_weights:
                scores = queries * self.scale @ keys.transpose(-2, -1)
                weights = (scores if mask is None else scores + mask).softmax(-1)
                mixed = F.dropout(weights, dropout) @ values
                weights = weights.mean(1) if average_attn_weights else weights
            else:
                mixed = F.scaled_dot_product_attention(queries, keys, values, mask, dropout, scale=self.scale)
            output = self.out_proj(mixed.transpose(1, 2).flatten(2))
            if alone:
                return output.squeeze(0), None if weights is None else weights.squeeze(0)
            return output if self.batch_first else output.transpose(0, 1), weights

        def _mask(
            self, attention: torch.Tensor | None, padding: torch.Tensor | None, queries: torch.Tensor
        ) -> torch.Tensor | None:
            """Both masks as one to add to the scores, (batch or 1, heads or 1, queries or 1, keys); None if neither."""
            mask = None
            if attention is not None:
                mask = _to_add(attention, queries.dtype)
                mask = mask[None, None] if mask.ndim == 2 else mask.view(*queries.shape[:2], *mask.shape[1:])
            if padding is not None:
                padded = _to_add(padding, queries.dtype)
                padded = padded[:, None, None] if padded.ndim == 2 else padded[None, None, None]
                mask = padded if mask is None else mask + padded
            return mask

    def _linear(weight: torch.Tensor, bias: torch.Tensor | None, source: nn.MultiheadAttention) -> nn.Linear:
        # Without a fresh start, which would draw random numbers.
        shape: Any = {"in_features": weight.shape[1], "out_features": weight.shape[0], "bias": bias is not None}
        layer: nn.Linear = nn.utils.skip_init(nn.Linear, **shape, dtype=weight.dtype)  # type: ignore[no-untyped-call]
        for own, given in ((layer.weight, weight), (layer.bias, bias)):
            if given is not None:
                own.data.copy_(given.detach())
                own.requires_grad_(source.out_proj.weight.requires_grad)
        return layer

    def _to_add(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        if mask.dtype != torch.bool:
            return mask
        return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, float("-inf"))

    return Attention
