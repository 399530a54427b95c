"""The same weights in the GPT-2 and the Llama of Hugging Face's transformers: independent implementations."""

from __future__ import annotations

import torch

from trainer.families.transformer.model import TransformerLM


def counterpart(model: TransformerLM) -> torch.nn.Module:
    """An eager model of transformers, in evaluation, that should give the same logits."""
    return (_llama if model.config.arch == "llama" else _gpt2)(model)


def _gpt2(model: TransformerLM) -> torch.nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel  # seconds, which a process pays that compares

    m = model.config
    other = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=m.vocab_size,
            n_positions=m.context_length,
            n_embd=m.d_model,
            n_layer=m.n_layers,
            n_head=m.n_heads,
            n_inner=m.ffn_width,
            layer_norm_epsilon=m.eps,
            attn_implementation="eager",
            bos_token_id=0,
            eos_token_id=0,
        )
    )
    ours = model.state_dict()
    theirs = {"transformer.wte.weight": ours["embedding.weight"], "transformer.wpe.weight": ours["positions.weight"]}
    theirs |= {f"transformer.ln_f.{kind}": ours[f"norm.{kind}"] for kind in ("weight", "bias")}
    for i in range(m.n_layers):
        here, there = f"blocks.{i}", f"transformer.h.{i}"
        for kind in ("weight", "bias"):
            theirs[f"{there}.ln_1.{kind}"] = ours[f"{here}.attention_norm.{kind}"]
            theirs[f"{there}.ln_2.{kind}"] = ours[f"{here}.ffn_norm.{kind}"]
        theirs[f"{there}.attn.c_attn.weight"] = ours[f"{here}.attention.qkv.weight"].T  # theirs are (in, out)
        theirs[f"{there}.attn.c_attn.bias"] = torch.zeros(3 * m.d_model)
        for name, own in (("attn.c_proj", "attention.output"), ("mlp.c_fc", "ffn.input"), ("mlp.c_proj", "ffn.output")):
            theirs[f"{there}.{name}.weight"] = ours[f"{here}.{own}.weight"].T
            theirs[f"{there}.{name}.bias"] = ours[f"{here}.{own}.bias"]
    return _filled(other, theirs)


def _llama(model: TransformerLM) -> torch.nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    m = model.config
    other = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=m.vocab_size,
            max_position_embeddings=m.context_length,
            hidden_size=m.d_model,
            num_hidden_layers=m.n_layers,
            num_attention_heads=m.n_heads,
            num_key_value_heads=m.kv_heads,
            intermediate_size=m.ffn_width,
            rms_norm_eps=m.eps,
            rope_parameters={"rope_type": "default", "rope_theta": m.rope_theta},
            attention_bias=True,
            tie_word_embeddings=True,
            attn_implementation="eager",
        )
    )
    ours = model.state_dict()
    theirs = {"model.embed_tokens.weight": ours["embedding.weight"], "model.norm.weight": ours["norm.weight"]}
    K, G = m.head_width, m.kv_heads
    for i in range(m.n_layers):
        here, there = f"blocks.{i}", f"model.layers.{i}"
        q, k, v = ours[f"{here}.attention.qkv.weight"].split([m.d_model, G * K, G * K])
        gate, up = ours[f"{here}.ffn.input.weight"].chunk(2)
        theirs |= {
            f"{there}.input_layernorm.weight": ours[f"{here}.attention_norm.weight"],
            f"{there}.post_attention_layernorm.weight": ours[f"{here}.ffn_norm.weight"],
            f"{there}.self_attn.q_proj.weight": _half_split(q, K),
            f"{there}.self_attn.k_proj.weight": _half_split(k, K),
            f"{there}.self_attn.v_proj.weight": v,
            f"{there}.self_attn.o_proj.weight": ours[f"{here}.attention.output.weight"],
            f"{there}.self_attn.o_proj.bias": ours[f"{here}.attention.output.bias"],
            f"{there}.mlp.gate_proj.weight": gate,
            f"{there}.mlp.up_proj.weight": up,
            f"{there}.mlp.down_proj.weight": ours[f"{here}.ffn.output.weight"],
        }
        for name, weight in (("q", q), ("k", k), ("v", v)):
            theirs[f"{there}.self_attn.{name}_proj.bias"] = torch.zeros(len(weight))
    return _filled(other, theirs)


def _half_split(weight: torch.Tensor, head_width: int) -> torch.Tensor:
    """Rows from pairs of neighbours (2j, 2j+1) to pairs (j, j + K/2), which is how transformers rotates."""
    return weight.unflatten(0, (-1, head_width // 2, 2)).transpose(1, 2).flatten(0, 2)


def _filled(other: torch.nn.Module, weights: dict[str, torch.Tensor]) -> torch.nn.Module:
    missing, unexpected = other.load_state_dict(weights, strict=False)
    assert set(missing) <= {"lm_head.weight"} and not unexpected, (missing, unexpected)
    other.tie_weights()
    return other.eval()
