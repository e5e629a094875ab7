"""Types of models that loading must know more of than their name, each found by what it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers as tf
from torch import Tensor, nn

from mmpref.errors import ConfigError
from mmpref.models import AdapterSettings, LoadedModel, Tuning, load, prepare
from mmpref.models.adapters.targets import lora_layers
from mmpref.models.batch_norms import keep_statistics
from mmpref.models.load import family_of_config
from mmpref.models.parts import with_parts
from mmpref.models.tower_masks import look_both_ways
from mmpref.processing import PairEncoder
from mmpref.processing.errors import EncodeError
from tests.model_types.folders import NotBuiltError, write_folder
from tests.model_types.registry import WRITERS
from tests.tiny_vlms import TINY, build_model, draw, pair


@pytest.fixture(scope="module")
def phi4() -> tf.PreTrainedModel:
    """Phi-4-multimodal, which hears as well; without a processor, which needs torchvision."""
    size = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
    config = tf.Phi4MultimodalConfig(
        **size, num_hidden_layers=2, num_key_value_heads=2, vocab_size=200, pad_token_id=0, bos_token_id=1,
        eos_token_id=2,
        vision_config={**size, "num_hidden_layers": 3, "image_size": 64, "crop_size": 64, "patch_size": 8,
                       "image_token_id": 5},
        audio_config={**size, "num_blocks": 2, "ext_pw_out_channel": 64, "nemo_conv_channels": 64,
                      "audio_token_id": 6},
    )  # fmt: skip
    torch.manual_seed(0)
    model = tf.Phi4MultimodalForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.1)
    return model


def test_a_module_that_holds_towers_for_eyes_and_ears_is_looked_into(phi4: tf.PreTrainedModel) -> None:
    family = with_parts(family_of_config(phi4.config), phi4)
    inside = "model.embed_tokens_extend"
    assert family.part_of(f"{inside}.image_embed.img_processor.encoder.layers.0.fc1") == "vision"
    assert family.part_of(f"{inside}.image_embed.img_projection_up.weight") == "projector"
    assert family.part_of(f"{inside}.audio_embed.encoder.encoders.0.feed_forward_in.up_proj") == "other"
    assert family.part_of("model.layers.0.mlp.down_proj") == "language"


def test_a_tower_looks_both_ways_whether_or_not_the_batch_has_padding(phi4: tf.PreTrainedModel) -> None:
    phi4.set_attn_implementation("sdpa")
    look_both_ways(phi4, with_parts(family_of_config(phi4.config), phi4))
    embed = phi4.model.embed_tokens_extend.image_embed
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    whole = torch.ones(2, 8, 8, dtype=torch.bool)
    padded = whole.clone()
    padded[1, 5:] = False
    with torch.no_grad():
        alone: Tensor = embed.get_img_features(pixels[:1], whole[:1])
        beside: Tensor = embed.get_img_features(pixels, padded)[:1]
    assert torch.allclose(alone, beside, atol=1e-5)


def test_batch_norms_keep_their_statistics_while_a_model_trains() -> None:
    model = build_model("llava")
    norm = nn.BatchNorm1d(4)
    model.model.vision_tower.stem = norm
    rows = torch.rand(8, 4, generator=torch.Generator().manual_seed(0)) * 5
    want = norm.eval()(rows)
    keep_statistics(model)
    model.train()
    assert model.model.vision_tower.training
    assert torch.equal(norm(rows), want)
    assert not norm.running_mean.any()


class _Chooser(nn.Module):
    """Chooses without a gradient, as the indexers of sparse attention do."""

    def __init__(self) -> None:
        super().__init__()
        self.wk = nn.Linear(64, 64)

    @torch.no_grad()
    def forward(self, hidden: Tensor) -> Tensor:
        return self.wk(hidden)


def test_no_adapter_is_put_where_no_gradient_comes() -> None:
    model = build_model("text")
    model.model.layers[0].self_attn.indexer = _Chooser()
    family = with_parts(family_of_config(model.config), model)
    found = lora_layers(model, family, Tuning(language="lora"))
    assert "model.layers.0.self_attn.q_proj" in found
    assert not [name for name in found if "indexer" in name]


def test_a_saved_adapter_keeps_names_that_the_published_ones_look_like(tmp_path: Path) -> None:
    """Renamings of the published checkpoint would put ``mlp.`` before what stands behind ``mlp.`` already."""
    try:
        WRITERS["mistral_large4"](tmp_path / "base")
    except NotBuiltError as err:
        pytest.skip(str(err))
    trained = prepare(load(tmp_path / "base", trainable=True), Tuning(language="lora"), AdapterSettings(rank=2)).model
    assert [name for name, _ in trained.named_parameters() if "mlp.shared_experts" in name and ".lora_" in name]
    with torch.no_grad():
        for name, parameter in trained.named_parameters():
            if ".lora_B" in name:
                parameter.fill_(0.01)
    trained.save_pretrained(tmp_path / "adapter")
    again = dict(load(tmp_path / "base", adapter=tmp_path / "adapter").model.named_parameters())
    for name, parameter in trained.named_parameters():
        if ".lora_" in name:
            assert torch.equal(again[name], parameter)


def test_a_classifier_is_refused_by_name(tmp_path: Path) -> None:
    build_model("text").save_pretrained(tmp_path)
    TINY["text"].processor().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": ["LlamaForSequenceClassification"]}))
    with pytest.raises(ConfigError, match="LlamaForSequenceClassification: a classifier, which writes no answers"):
        load(tmp_path)


def test_a_text_row_is_refused_with_advice_where_the_processor_wants_an_image(tmp_path: Path) -> None:
    loaded = load(WRITERS["got_ocr2"](tmp_path))
    encoder = PairEncoder(loaded.processor, loaded.family)
    assert len(encoder.encode(pair(images=("60x40-1",)), draw).prompt) > 256
    with pytest.raises(EncodeError, match="without an image: then leave out rows that have none"):
        encoder.encode(pair(images=(), question="is it ?"), draw)


def test_a_processor_that_asks_its_own_questions_is_refused(tmp_path: Path) -> None:
    """ShieldGemma 2's, in the folder of the Gemma 3 that it was made from."""
    gemma = build_model("gemma3")
    stock = TINY["gemma3"].processor()
    write_folder(
        tmp_path, gemma, stock.tokenizer, stock.image_processor, processor="Gemma3Processor",
        settings={"image_seq_length": 4},
    )  # fmt: skip
    loaded = load(tmp_path)
    asks = tf.ShieldGemma2Processor(
        stock.image_processor, stock.tokenizer, chat_template=stock.chat_template, image_seq_length=4
    )
    other = LoadedModel(model=gemma, processor=asks, family=loaded.family, path=loaded.path)
    with pytest.raises(EncodeError, match="becomes 3 prompts by the model's processor ShieldGemma2Processor"):
        PairEncoder(other.processor, other.family).encode(pair(images=("60x40-1",)), draw)
