"""Regions and words as GLoRIA and MGCA read them, against the published code's own numbers."""

import json

import numpy as np
import pytest
import timm
import torch
from transformers import BertTokenizer

from hub_medsyn.modeling_local import (
    attends_from_class_token,
    class_token_attention,
    region_stage,
    sum_words,
    word_numbers,
)
from hub_medsyn.modeling_medsyn import continues_word
from hub_medsyn.modeling_mgca import ProjectionHead, shift_weights
from tests.fixtures.tiny_models import side_of, tiny_gloria, tiny_mgca, tiny_tokenizer


def words_of(numbers, tokens):
    vocabulary = json.loads(str(numbers["vocab"]))
    continues = torch.tensor([token.startswith("##") for token in vocabulary])
    ids = torch.tensor(numbers["input_ids"])
    place, counts, closed = word_numbers(ids, ids != vocabulary.index("[PAD]"), continues, vocabulary.index("[SEP]"))
    return sum_words(tokens, place, ids.shape[1]), counts, closed


def test_words_and_text_equal_the_golden_numbers_of_gloria(golden):
    with np.load(golden / "gloria_text_encoder_f32.npz") as numbers:
        words, counts, closed = words_of(numbers, torch.tensor(numbers["hidden_states"])[-4:].sum(0))
        np.testing.assert_allclose(words.transpose(1, 2), numbers["word_sum"], rtol=1e-5, atol=1e-6)
        # The published code divides by all places, padding included: another length, the same direction.
        np.testing.assert_allclose(words.sum(1) / words.shape[1], numbers["sent_sum"], rtol=1e-5, atol=1e-6)
        assert (counts - closed.long()).tolist() == numbers["cap_lens_train"].tolist()


def test_words_and_heads_equal_the_golden_numbers_of_mgca(golden):
    with (
        np.load(golden / "mgca_text_encoder_f32.npz") as numbers,
        np.load(golden / "gloria_text_encoder_f32.npz") as other,
    ):
        tokens = torch.tensor(numbers["last_hidden"])
        attention = torch.tensor(numbers["attention"]).mean(1)[:, 0]  # from the opening token, mean over heads
        both = {**numbers, "vocab": other["vocab"]}
        words, _, closed = words_of(both, tokens)
        weights = words_of(both, shift_weights(attention)[..., None])[0]
        # The third text has no padding; the published code then forgets its last word and its closing token.
        sentences = json.loads(str(numbers["sents"]))
        known = torch.tensor([[word != "[PAD]" for word in sentence] for sentence in sentences])[:, 1:, None]
        assert closed.all() and known[:, :, 0].sum(1).tolist() == [3, 4, 5]
        np.testing.assert_allclose(words[:, 1:] * known, numbers["word_feat"], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose((weights[:, 1:] * known)[..., 0], numbers["last_atten"], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(tokens[:, 0], numbers["report_feat"])
        for name, features in (("local", "word_feat"), ("global", "report_feat")):
            head = ProjectionHead(8, 16, 4).train()
            state = {key.removeprefix(f"{name}.head."): key for key in numbers if key.startswith(f"{name}.head.")}
            weights = {key: torch.tensor(numbers[full]) for key, full in state.items() if "running" not in key}
            weights = {key: value.squeeze(-1) if value.ndim == 3 else value for key, value in weights.items()}
            missing = head.load_state_dict(weights, strict=False)
            assert not missing.unexpected_keys and all("running" in key for key in missing.missing_keys)
            output = head(torch.tensor(numbers[features])).detach()
            np.testing.assert_allclose(output, numbers[f"{name}_embed_train"], rtol=1e-4, atol=1e-5)
            running = torch.tensor(numbers[f"{name}.head.4.running_mean"])
            np.testing.assert_allclose(head[4].running_mean, running, rtol=1e-4, atol=1e-6)


def test_words_are_counted_and_not_pieces_or_characters():
    tokenizer = tiny_tokenizer()
    text = tokenizer(["small cardiomegaly.", "no", ""], padding=True, return_tensors="pt")
    assert tokenizer.convert_ids_to_tokens(text["input_ids"][0]) == (
        ["[CLS]", "small", "cardio", "##megaly", ".", "[SEP]"]
    )
    continues = tiny_gloria().continues_word
    place, counts, closed = word_numbers(text["input_ids"], text["attention_mask"], continues, tokenizer.sep_token_id)
    assert place.tolist() == [[0, 1, 2, 2, 3, 4], [0, 1, 2, -1, -1, -1], [0, 1, -1, -1, -1, -1]]
    assert counts.tolist() == [5, 3, 2] and closed.all()
    tokens = torch.arange(18.0).view(3, 6, 1)
    assert sum_words(tokens, place, 5)[0, :, 0].tolist() == [0, 1, 2 + 3, 4, 5]
    assert sum_words(tokens, place, 5)[1, :, 0].tolist() == [6, 7, 8, 0, 0]


def test_byte_level_pieces_begin_the_first_word_without_a_mark():
    continues = torch.tensor([False, False, True, False])  # <s>, </s>, a piece that continues, one that begins
    ids = torch.tensor([[0, 2, 2, 3, 1]])
    place, counts, _ = word_numbers(ids, torch.ones_like(ids), continues, 1)
    assert place.tolist() == [[0, 1, 1, 2, 3]] and counts.tolist() == [4]


def test_letters_that_mark_words_elsewhere_are_letters_here(tmp_path):
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "small", "cardio", "##megaly", "##s", "\u0120", "\u2581"]
    (tmp_path / "vocab.txt").write_text("\n".join(tokens), encoding="utf-8")  # as of multilingual BERT
    continues = continues_word(BertTokenizer(str(tmp_path / "vocab.txt")), len(tokens))
    assert [tokens[index] for index in continues.nonzero()] == ["##megaly", "##s"]


class ByteLevel:
    """As much of a byte-level tokenizer as is asked for; such vocabularies hold runs of `#` too."""

    all_special_tokens = ("<s>", "</s>")

    def get_vocab(self):
        return {token: index for index, token in enumerate(("<s>", "</s>", "\u0120small", "\u0120lung", "s", "##"))}


def test_byte_level_vocabularies_mark_what_begins_a_word():
    assert continues_word(ByteLevel(), 6).tolist() == [False, False, False, False, True, True]


@pytest.mark.parametrize(
    ("kind", "stage", "regions", "width"),
    [
        ("resnet", 3, 4, 32),
        ("vit", None, 16, 32),
        ("swin", 2, 16, 32),
        ("convnext", 2, 4, 24),
        ("mobilenet", 3, 4, 24),
    ],
)
def test_regions_of_each_family(kind, stage, regions, width):
    model = tiny_gloria(kind).eval()
    images = torch.randn(2, 3, side_of(kind), side_of(kind), generator=torch.Generator().manual_seed(0))
    assert (model.region_stage, model.region_width) == (stage, width)
    with torch.no_grad():
        pooled, found, attention = model.encode_regions(images)
        assert found.shape == (2, regions, width) and (attention is not None) == (kind == "vit")
        torch.testing.assert_close(pooled, model.vision_model(images).pooler_output)
        if stage is not None:
            maps = model.vision_model(images, output_hidden_states=True).hidden_states
            assert torch.equal(found[:, 1], maps[stage][:, :, 0, 1])  # row by row
        else:
            assert torch.equal(found, model.vision_model(images).last_hidden_state[:, 1:])


def test_an_encoder_that_is_too_coarse_is_refused():
    with pytest.raises(ValueError, match="no map of a sixteenth"):
        region_stage(torch.nn.Linear(2, 2))


def test_images_are_enlarged_where_the_switch_says_so():
    images = torch.randn(2, 3, 32, 32)
    assert tiny_gloria(upsample_size=96).encode_regions(images)[1].shape == (2, 36, 32)
    assert tiny_gloria("vit", upsample_size=96).encode_regions(images)[1].shape == (2, 16, 32)


def test_class_token_attention_is_that_of_the_last_block():
    encoder = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=2)
    assert attends_from_class_token(encoder.eval())
    seen = {}
    last = encoder.blocks[-1].attn
    last.fused_attn = False
    last.attn_drop.register_forward_hook(lambda module, inputs, output: seen.update(weights=output))
    encoder.blocks[-1].register_forward_pre_hook(lambda module, inputs: seen.update(tokens=inputs[0]))
    with torch.no_grad():
        encoder(torch.randn(2, 3, 32, 32))
    expected = seen["weights"].mean(1)[:, 0, 1:]
    torch.testing.assert_close(class_token_attention(encoder, seen["tokens"]), expected)


def test_vit_patches_count_by_the_class_tokens_attention():
    model = tiny_mgca("vit").eval()
    images = torch.randn(2, 3, 32, 32)
    tokens = {}
    model.vision_model.timm_model.blocks[-1].register_forward_pre_hook(
        lambda module, inputs: tokens.update(last=inputs[0])
    )
    attention = model.encode_regions(images)[2]
    torch.testing.assert_close(attention, class_token_attention(model.vision_model.timm_model, tokens["last"]))


def test_word_weights_are_the_text_encoders_own_attention():
    model = tiny_mgca().eval()
    text = tiny_tokenizer()(["small cardiomegaly.", "no"], padding=True, return_tensors="pt")
    model.text_model.set_attn_implementation("eager")
    with torch.no_grad():
        output = model.text_model(**text, output_attentions=True, output_hidden_states=True)
        got = model._attention_of_text(output.hidden_states[-2], text["attention_mask"])
    torch.testing.assert_close(got, output.attentions[-1].mean(1)[:, 0])


def test_weights_are_shifted_to_the_next_token_in_official_mgca_alone():
    text = tiny_tokenizer()(["small cardiomegaly.", "no"], padding=True, return_tensors="pt")
    straight, shifted = (tiny_mgca(shift_word_weights=shift).eval() for shift in (False, True))
    with torch.no_grad():
        hidden, mask = straight.encode_tokens(**text)
        attention = straight._attention_of_text(hidden[-2], mask)
        weights = straight._encode_words(**text)[3]
        moved = shifted._encode_words(**text)[3]
    torch.testing.assert_close(weights[1, :2], attention[1, 1:3])  # no, and the closing token
    torch.testing.assert_close(moved[1, :2], attention[1, 2:4])
    assert weights[1, 1] > 0 and moved[1, 1] == 0  # nothing is paid to padding
    torch.testing.assert_close(weights[0, 1], attention[0, 2:4].sum())
    torch.testing.assert_close(moved[0, 1], attention[0, 3:5].sum())
