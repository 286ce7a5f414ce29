from tests.trainers.data.image_pairs import image_rows
from trainers.scratch_text import train_tokenizer

TEXTS = [*image_rows()["prompt"], "Café: 2.5 cm nodule.", "Hilum?"]


def test_equal_texts_in_any_order_give_the_same_ids():
    vocabulary = train_tokenizer(TEXTS).get_vocab()
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))
    assert train_tokenizer(reversed(TEXTS)).get_vocab() == vocabulary


def test_common_words_are_tokens_and_rare_ones_are_spelt():
    tokenizer = train_tokenizer(TEXTS)
    assert tokenizer.tokenize("Small EFFUSION.") == ["small", "effusion", "."]
    assert tokenizer.tokenize("hilum") == ["h", "##i", "##l", "##u", "##m"]
    assert tokenizer.unk_token_id not in tokenizer("\n".join(TEXTS), truncation=False)["input_ids"]
    assert tokenizer.tokenize("zygoma") == ["[UNK]"]  # no z in the texts
    assert tokenizer.cls_token_id == 2 and tokenizer.model_max_length == 256


def test_the_commonest_words_are_kept():
    tokenizer = train_tokenizer(["edema edema edema heart heart mass mass"], vocabulary_size=2)
    assert tokenizer.tokenize("edema heart mass") == ["edema", "heart", "m", "##a", "##s", "##s"]
