"""Other programs' names for parameters and their names here; and what to do about names that are not parameters."""

from __future__ import annotations

import re
from collections.abc import Iterable

from trainer.checks import unknown_name

SYNONYMS: dict[str, str] = {
    "learning_rate": "lr max_lr peak_lr base_lr initial_lr init_lr adam_lr eta0 max_learning_rate peak_learning_rate",
    "min_lr_ratio": "min_lr lr_min final_lr eta_min lr_end min_learning_rate min_lr_frac min_lr_rate",
    "weight_decay": "wd l2 decay l2_reg weight_decay_rate adam_weight_decay",
    "batch_size": (
        "bs batch bsz micro_batch micro_batch_size train_batch_size per_device_train_batch_size device_batch_size "
        "mini_batch_size minibatch_size per_device_batch_size batch_sz train_micro_batch_size_per_gpu"
    ),
    "accumulate_grad_batches": (
        "grad_accum gradient_accumulation_steps grad_accumulation_steps accumulation_steps gradient_accumulation "
        "accum_steps grad_acc grad_accum_steps accumulate_steps"
    ),
    "d_model dim n_embd": (
        "d_model dim n_embd n_embed embd emb hidden_size hidden_dim embed_dim emb_dim embedding_dim embedding_size "
        "emb_size embed_size model_dim width hidden hidden_units d_hidden n_hidden num_hidden"
    ),
    "n_layers n_layer layers": (
        "n_layer n_layers layer layers num_layers num_layer num_hidden_layers depth nlayers nlayer n_blocks num_blocks"
    ),
    "n_heads n_head": (
        "n_head n_heads head heads num_heads num_head num_attention_heads attention_heads nhead nheads n_attn_heads"
    ),
    "n_kv_heads": "n_kv_head num_key_value_heads kv_heads num_kv_heads n_query_groups num_kv_groups",
    "d_ff mlp_internal_dim_multiplier": (
        "d_ff ffn_dim ff_dim dff intermediate_size dim_feedforward ffn_hidden_size n_inner d_inner mlp_dim "
        "feedforward_dim mlp_ratio ffn_mult mlp_mult mlp_hidden_dim"
    ),
    "seq_len": (
        "block_size seq_length sequence_length seqlen max_seq_len max_seq_length max_length sequence_len max_len bptt "
        "window window_size train_seq_len"
    ),
    "context_length seq_len": "context ctx ctx_len context_len context_size context_window n_ctx n_positions "
    "max_position_embeddings",
    "vocab_size": "vocab n_vocab vocabulary vocab_sz vocabulary_size num_tokens",
    "dropout": "drop dropout_p dropout_rate dropout_prob drop_rate p_drop pdrop hidden_dropout",
    "emb_dropout": "embd_pdrop embedding_dropout embed_dropout",
    "attn_dropout": "attn_pdrop attention_dropout",
    "resid_dropout": "resid_pdrop residual_dropout",
    "warmup_ratio": (
        "warmup warm_up warmup_steps num_warmup_steps warmup_iters warmup_tokens warmup_frac warmup_fraction "
        "warmup_proportion lr_warmup n_warmup warmup_epochs"
    ),
    "schedule": "scheduler lr_scheduler lr_scheduler_type lr_schedule lr_decay decay_lr lr_decay_style scheduler_type",
    "beta1": "b1 beta_1 adam_beta1 adam_b1 momentum",
    "beta2": "b2 beta_2 adam_beta2 adam_b2",
    "grad_clip_norm": (
        "grad_clip clip clip_grad max_grad_norm gradient_clip_val clip_grad_norm grad_norm_clip gradient_clipping "
        "max_norm grad_clipping clip_norm gradient_clip"
    ),
    "ema_share": "ema ema_decay ema_rate",
    "precision": "dtype mixed_precision amp fp16 bf16",
    "d_state": "state_size state_dim ssm_state n_state d_ssm",
    "norm_eps": "layer_norm_eps rms_norm_eps layer_norm_epsilon eps_norm",
}  # fmt: skip
"""Names here, of which a family has at most one, and other programs' names for them."""

_LENGTH = "training length is counted in tokens, the same for every trial: budget: {max_tokens: N}, or --max-tokens N"
_MACHINE = "the machine is shared out among trials by --gpus-per-trial, --cpus-per-trial and --parallel; leave it out"
_TEXT = "the text is given by --data; leave it out"
ELSEWHERE: dict[str, str] = {
    "eval_tokens": "it is the budget's: budget: {eval_tokens: N}",
    "token_dtype": "give it with --token-dtype",
    "cache_dir": "the environment variable TINYSEARCH_CACHE sets it",
    "num_threads": "give it with --cpus-per-trial",
    "seed random_seed random_state rng_seed": (
        "give it with --seed N; tinysearch confirm trains the best with several seeds"
    ),
    "epochs epoch num_epochs n_epochs nb_epochs num_train_epochs max_epochs": _LENGTH,
    "max_steps max_step steps num_steps n_steps train_steps total_steps training_steps max_iters max_iter num_iters "
    "iterations num_iterations n_iters": _LENGTH,
    "optimizer optim opt optimizer_name optimizer_type": (
        "there is one optimizer, AdamW; leave it out, and search learning_rate, weight_decay, beta1 and beta2"
    ),
    "betas adam_betas": "write beta1 and beta2, a parameter each",
    "device gpus gpu n_gpus num_gpus accelerator devices num_workers": _MACHINE,
    "data dataset data_path data_dir dataset_name train_data train_file dataset_path": _TEXT,
    "model model_name model_type architecture model_size": "the model's kind is the space's family; leave it out",
    "activation act hidden_act activation_function act_fn nonlinearity": (
        "each family has its own activation, which is not a parameter; leave it out"
    ),
    "eval_interval eval_every eval_steps eval_iters log_interval save_steps": (
        "trials are measured at the budget's rungs: budget: {min_tokens: N, max_tokens: N, eta: 3}"
    ),
    "init_std initializer_range tie_weights tie_word_embeddings tied_embeddings bias": (
        "it is the family's own, which is not a parameter; leave it out"
    ),
}  # fmt: skip
"""Names that are not parameters here, and what to do instead."""

_NOTES = {
    "min_lr_ratio": ", a share of learning_rate",
    "warmup_ratio": ", a share of the training",
    "mlp_internal_dim_multiplier": ", a multiple of n_embd",
    "ema_share": ", a share of the tokens so far",
}
"""Notes on names whose unit differs from other programs'."""

_OURS = {theirs: ours.split() for ours, names in SYNONYMS.items() for theirs in names.split()}
_ELSEWHERE = {theirs: advice for names, advice in ELSEWHERE.items() for theirs in names.split()}


def synonym(name: str, known: Iterable[str]) -> str | None:
    """The one of `known` parameters that another program means by `name`, also as `optimizer.lr`; or None."""
    known, short = list(known), _short(name)
    if short in known:
        return short
    return next((ours for ours in _OURS.get(short, ()) if ours in known), None)


def advice_for(name: str) -> str | None:
    """What to do about a name that is not a parameter here; None for any other name."""
    return _ELSEWHERE.get(_short(name))


def unknown_parameter(name: str, known: Iterable[str]) -> str:
    """The message for an unknown parameter: what is known, and what was probably meant."""
    known, name = list(known), name[:60]
    if (ours := synonym(name, known)) is None:
        if advice := advice_for(name):
            return f"unknown parameter {name!r}: {advice}"
        return unknown_name("parameter", name, known)
    listed = unknown_name("parameter", name, known).partition(" Did you mean ")[0]
    return f"{listed} Did you mean {ours!r}{note_of(ours)}?"


def note_of(name: str) -> str:
    """A note on one of the names here: `, a share of the training`; usually empty."""
    return _NOTES.get(name, "")


def _short(name: str) -> str:
    """`optimizer.lr`, `+model/lr` and `Learning-Rate` as the plain name."""
    last = re.split(r"[./]|__", name.strip().lstrip("+~-"))[-1]
    return re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", last).lower()).strip("_")
