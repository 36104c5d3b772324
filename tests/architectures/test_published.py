"""Published models: their layers are where the reference table says, and their bills are what was published."""

import pytest
from hybridlab.architectures import Budget, InvalidInput, ModelConfig, bill, layer_names, parse_pattern
from hybridlab.architectures.published import FOLDER, Published, load_published, published_names, read_published

ATTENTION = {"attn", "swa", "mla", "sparse_attn", "hymba", "shared_block"}
FEED_FORWARD = {"mlp", "moe", "rwkv_channel"}

# From the papers and configurations themselves, not from the YAMLs: mixers, and which of them (from 0) are attention.
# Shared blocks count at every place they are used; based's linear layers are no attention here.
WHERE_ATTENTION_IS = {
    "bailing-hybrid": (42, range(5, 42, 6)),
    "bamba-9b": (32, (9, 18, 27)),
    "based-360m": (27, (2, 7, 12, 17, 22)),
    "evo2-7b": (32, (3, 10, 17, 24, 31)),
    "falcon-h1-0.5b": (36, range(36)),
    "falcon-h1-7b": (44, range(44)),
    "granite-4.0-h-1b": (40, (5, 15, 25, 35)),
    "granite-4.0-h-350m": (32, (10, 13, 17, 27)),
    "granite-4.0-h-small": (40, (5, 15, 25, 35)),
    "h3-hybrid": (12, (1, 8)),
    "hymba-1.5b": (32, range(32)),
    "jamba-1.5-large": (72, range(4, 72, 8)),
    "jamba-v0.1": (32, range(4, 32, 8)),
    "kimi-linear-48b-a3b": (27, (3, 7, 11, 15, 19, 23, 26)),
    "lfm2-1.2b": (16, (2, 5, 8, 10, 12, 14)),
    "lfm2-2.6b": (30, (2, 5, 9, 13, 17, 21, 24, 27)),
    "mad-striped-hyena": (2, (1,)),
    "mamba-2.8b": (64, ()),
    "mamba2-2.7b": (64, ()),
    "mamba2-attention-2.7b": (64, (9, 18, 27, 36, 45, 56)),
    "mamba2-hybrid-800m": (24, None),
    "mamba2-hybrid-8b": (28, None),
    "minimax-text-01": (80, range(7, 80, 8)),
    "nemotron-3-nano-30b-a3b": (29, None),
    "nemotron-h-8b": (28, None),
    "nemotron-nano-9b-v2": (31, None),
    "olmo-hybrid-7b": (32, range(3, 32, 4)),
    "qwen3-next-80b-a3b": (48, range(3, 48, 4)),
    "recurrentgemma-2b": (26, range(2, 26, 3)),
    "recurrentgemma-9b": (38, range(2, 38, 3)),
    "repeat-after-me-160m": (12, range(12)),
    "rwkv-x-126m": (12, range(3, 12, 4)),
    "samba-421m": (12, range(1, 12, 2)),
    "stripedhyena-7b": (32, range(1, 32, 2)),
    "yoco-160m": (12, range(6, 12)),
    # The k-th use of a shared block comes before Mamba layer i_k, hence is mixer i_k + k.
    "zamba-7b": (89, [i + k for k, i in enumerate((2, *range(7, 74, 6)))]),
    "zamba2-1.2b": (44, [i + k for k, i in enumerate((5, 11, 17, 23, 29, 35))]),
    "zamba2-2.7b": (63, [i + k for k, i in enumerate((6, 12, 18, 24, 30, 36, 42, 47, 51))]),
    "zoology-mqar": (2, (0, 1)),
}
# Of all sublayers, for the models that are published as Megatron strings.
WHERE_STARS_ARE = {
    "mamba2-hybrid-800m": (48, (9, 19, 28, 38)),
    "mamba2-hybrid-8b": (56, (10, 22, 33, 45)),
    "nemotron-3-nano-30b-a3b": (52, (5, 12, 19, 26, 33, 42)),
    "nemotron-h-8b": (52, (7, 18, 29, 40)),
    "nemotron-nano-9b-v2": (56, (14, 21, 30, 39)),
}
EXPERTS = {
    "bailing-hybrid": 40,
    "granite-4.0-h-small": 40,
    "jamba-1.5-large": 36,
    "jamba-v0.1": 16,
    "kimi-linear-48b-a3b": 26,
    "minimax-text-01": 80,
    "nemotron-3-nano-30b-a3b": 23,
    "qwen3-next-80b-a3b": 48,
}
NOBODY_STATES_A_TOTAL = {"bailing-hybrid", "mad-striped-hyena", "zoology-mqar"}

# The 35 systems that were looked up, each with its files here or the reason why there are none.
SYSTEMS = {
    "Jamba (v0.1, 52B/12B active)": ("jamba-v0.1",),
    "Jamba-1.5-Large": ("jamba-1.5-large",),
    "Zamba-7B-v1": ("zamba-7b",),
    "Zamba2-2.7B": ("zamba2-2.7b",),
    "Zamba2-1.2B": ("zamba2-1.2b",),
    "Mamba-2 attention-ratio ablation": ("mamba2-attention-2.7b", "mamba2-2.7b"),
    "Mamba-2-Hybrid 8B (Waleffe et al.)": ("mamba2-hybrid-8b",),
    "Mamba-2-Hybrid 800M (Megatron example)": ("mamba2-hybrid-800m",),
    "Samba": ("samba-421m",),
    "Griffin / RecurrentGemma": ("recurrentgemma-2b", "recurrentgemma-9b"),
    "Hymba-1.5B": ("hymba-1.5b",),
    "StripedHyena-7B": ("stripedhyena-7b",),
    "StripedHyena 2 / Evo2-7B (8K)": ("evo2-7b",),
    "H3 hybrid": ("h3-hybrid",),
    "Based": ("based-360m",),
    "MAD": ("mad-striped-hyena",),
    "Nemotron-H-8B": ("nemotron-h-8b",),
    "Nemotron variants": ("nemotron-nano-9b-v2", "nemotron-3-nano-30b-a3b"),
    "Falcon-H1": ("falcon-h1-0.5b", "falcon-h1-7b"),
    "Bamba-9B": ("bamba-9b",),
    "Granite-4.0-H": ("granite-4.0-h-small", "granite-4.0-h-1b", "granite-4.0-h-350m"),
    "MiniMax-01 (Text-01)": ("minimax-text-01",),
    "Qwen3-Next-80B-A3B": ("qwen3-next-80b-a3b",),
    "Kimi Linear 48B-A3B": ("kimi-linear-48b-a3b",),
    "OLMo-Hybrid-7B": ("olmo-hybrid-7b",),
    "LFM2-350M/700M/1.2B": ("lfm2-1.2b", "lfm2-2.6b"),
    "RWKV-X": ("rwkv-x-126m",),
    "YOCO": ("yoco-160m",),
    "A Systematic Analysis of Hybrid Linear Attention": "mixers and ratios are known; depth, width, heads are not",
    "Hybrid Architectures for LMs (Meta)": "ratios are known; depth, width and heads are not",
    "Zoology / MQAR": ("zoology-mqar",),
    "Repeat After Me (copying)": ("repeat-after-me-160m", "mamba-2.8b"),
    "Gated DeltaNet hybrids (H1/H2)": "its unit and window are known; depth, width and heads are not",
    "CRUMB ratio x placement ablation (community, HF cards; not peer reviewed)": "it needs Mamba-3",
    "Ling/Ring 'bailing_hybrid' (KDA 5:1)": ("bailing-hybrid",),
}

EVERY = [read_published(name) for name in published_names()]
BUILT = [model for model in EVERY if not model.missing]


def named(models: list[Published]) -> list:
    return [pytest.param(model, id=model.name) for model in models]


def attention_indices(model: Published, skip: set[str]) -> tuple[int, list[int]]:
    """How many sublayers there are besides those of ``skip``, and which of them have a branch of attention."""
    kept = [[use.name for use in s.branches] for s in model.pattern.sublayers if s.branches[0].name not in skip]
    return len(kept), [i for i, names in enumerate(kept) if ATTENTION & set(names)]


def test_every_file_is_in_the_table_of_facts():
    assert set(published_names()) == set(WHERE_ATTENTION_IS)


def test_every_system_has_files_or_a_reason_and_every_file_a_system():
    assert len(SYSTEMS) == 35
    assert all(SYSTEMS.values())
    files = [name for names in SYSTEMS.values() if not isinstance(names, str) for name in names]
    assert sorted(files) == sorted(published_names())


@pytest.mark.parametrize("model", named(EVERY))
def test_attention_is_where_it_was_published(model):
    mixers, indices = attention_indices(model, skip=FEED_FORWARD)
    expected_mixers, expected = WHERE_ATTENTION_IS[model.name]
    assert mixers == expected_mixers
    if expected is not None:
        assert indices == list(expected)
    else:
        sublayers, stars = WHERE_STARS_ARE[model.name]
        assert attention_indices(model, skip=set()) == (sublayers, list(stars))
    assert sum(use.name == "moe" for use in model.pattern.uses) == EXPERTS.get(model.name, 0)


@pytest.mark.parametrize("model", named(EVERY))
def test_a_published_pattern_prints_and_reads_as_itself(model):
    assert parse_pattern(str(model.pattern), check_names=False) == model.pattern


@pytest.mark.parametrize("model", named(EVERY))
def test_a_layer_that_is_missing_is_named_in_one_line(model):
    """Its sizes are kept in words until then."""
    assert set(model.missing) == set(model.awaiting)
    assert set(model.awaiting) <= {use.name for use in model.pattern.uses}
    assert not set(model.awaiting) & set(model.model.get("layers", {}))
    if not model.missing:
        assert isinstance(load_published(model.name).config, ModelConfig)
        return
    with pytest.raises(InvalidInput) as refusal:
        load_published(model.name)
    assert all(repr(name) in str(refusal.value) for name in model.missing)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("model", named(BUILT))
def test_the_bill_at_full_size_is_within_one_percent_of_what_others_count(model):
    """Of a model of these sizes, which says little about the sizes; next, what its makers say."""
    assert (model.parameters is None) == (model.parameters_source is None)
    if model.parameters is not None:
        assert bill(model.config).parameters == pytest.approx(model.parameters, rel=0.01)


@pytest.mark.parametrize("model", named(BUILT))
def test_the_bill_is_within_one_percent_of_what_its_makers_state_or_says_why_not(model):
    assert (model.stated is None) == (model.name in NOBODY_STATES_A_TOTAL)
    if model.stated is None:
        return
    stated, costs = model.stated, bill(model.config)
    off = costs.parameters / stated.total - 1
    assert (abs(off) > 0.01) == (stated.total_differs_because is not None), f"{off:+.2%}"
    assert (stated.active is None) == (costs.active_parameters == costs.parameters)
    assert stated.active is not None or (stated.active_differs_because is None and not stated.active_without_embeddings)
    if stated.active is not None:
        left_out = model.embedding_parameters if stated.active_without_embeddings else 0
        off = (costs.active_parameters - left_out) / stated.active - 1
        assert (abs(off) > 0.01) == (stated.active_differs_because is not None), f"{off:+.2%}"
        assert abs(off) < 0.1


def test_what_embedding_and_head_have():
    tied, untied = load_published("h3-hybrid"), load_published("jamba-v0.1")
    assert tied.embedding_parameters == 50257 * 768
    assert untied.embedding_parameters == 2 * 65536 * 4096


def test_every_option_of_a_published_model_belongs_to_a_layer_of_its_pattern():
    for model in EVERY:
        assert set(model.model.get("layers", {})) <= {use.name for use in model.pattern.uses} & set(layer_names())


@pytest.mark.parametrize("model", named(BUILT))
def test_the_same_shape_is_found_at_a_small_size(model):
    size = max(100e6, bill(model.config).parameters / 100)  # smaller, hundreds of experts are a few channels wide
    found = model.scaled(Budget(value=size), vocab_size=4096)
    assert abs(found.mismatch) <= 0.02
    assert found.achieved == bill(found.config).parameters
    assert found.config.pattern == model.config.pattern
    for name in {"mlp", "moe"} & set(found.config.layers):
        full, small = (c.layers[name]["hidden"] / c.d_model for c in (model.config, found.config))
        assert small == pytest.approx(full, rel=0.4), "the width of the MLPs stays in proportion"


def test_jamba_keeps_its_groups_of_heads_at_the_size_of_an_experiment():
    small = load_published("jamba-v0.1").scaled(Budget(value=30e6)).config
    assert small.layers["attn"] == {"n_heads": 4, "n_kv_heads": 1, "rope": False}
    assert small.layers["moe"]["n_experts"] == 16


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(InvalidInput, match=r"no published model 'jamba'; did you mean 'jamba-v0.1'"):
        load_published("jamba")


def test_a_file_with_an_unknown_key_or_confidence_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("hybridlab.architectures.published.FOLDER", tmp_path)
    text = (FOLDER / "mamba-2.8b.yaml").read_text()
    (tmp_path / "one.yaml").write_text(text + "note: misspelt\n")
    (tmp_path / "two.yaml").write_text(text.replace("primary", "certain"))
    (tmp_path / "three.yaml").write_text(text.replace("  total:", "  totals:"))
    with pytest.raises(InvalidInput, match="unknown key 'note'; did you mean 'notes'"):
        read_published("one")
    with pytest.raises(InvalidInput, match="pattern_confidence='certain'"):
        read_published("two")
    with pytest.raises(InvalidInput, match="three: stated: unknown key 'totals'; did you mean 'total'"):
        read_published("three")
