"""A model of the transformer family, GPT-2 or Llama (see model.py)."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.checks import at_least, one_of, require, shares
from trainer.families.family import ModelConfig, Run, no_longer_than

ARCHS = ("gpt2", "llama")
ROPE_THETA = 10_000.0
LLAMA_FFN_MULTIPLE = 256  # the default feed-forward width of a llama is rounded up to a multiple of this


@dataclass(frozen=True, kw_only=True)
class TransformerConfig(ModelConfig):
    """GPT-2 or Llama blocks (see model.py).

    None means the architecture's default; the properties below give it.
    """

    arch: str = "gpt2"
    vocab_size: int = 8192
    context_length: int = 512
    d_model: int = 384
    n_layers: int = 4
    n_heads: int = 6
    n_kv_heads: int | None = None  # llama only; None or 0: n_heads
    d_ff: int | None = None
    dropout: float | None = None  # between the two products of the feed-forward part
    emb_dropout: float | None = None  # None, here and below: same as dropout
    attn_dropout: float | None = None
    resid_dropout: float | None = None
    rope_theta: float = ROPE_THETA  # llama only
    norm_eps: float | None = None

    @property
    def kv_heads(self) -> int:
        return self.n_kv_heads or self.n_heads

    @property
    def head_width(self) -> int:
        return self.d_model // self.n_heads

    @property
    def ffn_width(self) -> int:
        if self.d_ff is not None:
            return self.d_ff
        multiple = LLAMA_FFN_MULTIPLE if self.arch == "llama" else 1
        return -(-4 * self.d_model // multiple) * multiple

    @property
    def eps(self) -> float:
        if self.norm_eps is not None:
            return self.norm_eps
        return 1e-6 if self.arch == "llama" else 1e-5

    def dropout_rate(self, place: str = "") -> float:
        """The share that is dropped at "emb", "attn" or "resid"; by default, in the feed-forward part."""
        rate = getattr(self, f"{place}_dropout") if place else self.dropout
        if rate is not None:
            return rate
        if place:
            return self.dropout_rate()
        return 0.0 if self.arch == "llama" else 0.1

    def faults(self) -> list[str]:
        if bad_arch := one_of(self, "arch", ARCHS):
            return bad_arch
        sizes = at_least(self, 1, "vocab_size", "context_length", "d_model", "n_layers", "n_heads")
        if self.d_ff is not None:
            sizes += at_least(self, 1, "d_ff")
        if self.n_kv_heads is not None:
            sizes += at_least(self, 0, "n_kv_heads")
        if sizes:
            return sizes
        is_llama, H, G = self.arch == "llama", self.n_heads, self.kv_heads
        return [
            *require(self.d_model % H == 0, f"n_heads {H} does not divide d_model {self.d_model}"),
            *require(
                not is_llama or self.d_model % H != 0 or self.head_width % 2 == 0,
                f"the head width d_model / n_heads = {self.head_width} is odd; rotary embeddings turn pairs",
            ),
            *require(
                is_llama or G == H,
                f"n_kv_heads {G} differs from n_heads {H}, which only arch llama can do; leave it out for {self.arch}",
            ),
            *require(not is_llama or H % G == 0, f"n_kv_heads {G} does not divide n_heads {H}"),
            *require(
                is_llama or self.rope_theta == ROPE_THETA,
                f"rope_theta is for arch llama; {self.arch} learns its positions: leave it out",
            ),
            *require(self.rope_theta > 0, f"rope_theta {self.rope_theta} is not positive"),
            *require(self.eps > 0, f"norm_eps {self.eps} is not positive"),
            *shares(self, "dropout", "emb_dropout", "attn_dropout", "resid_dropout"),
        ]

    def faults_in(self, run: Run) -> list[str]:
        return no_longer_than(run, "context_length", self.context_length)
