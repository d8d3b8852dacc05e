"""The cached CoCa decoder against open_clip's own forward pass, and the search against one without a cache."""

import pytest
import torch

from pipeline.language.beam import search
from studies.gap.coca_model import (
    PADDING,
    CachedDecoder,
    Coca,
    Words,
    config_of,
    fetch_coca,
    load_coca,
    random_coca,
    save_coca,
)

CAPTIONS = ["a red star rests at the top", "there is a small blue ring", "nothing is on the stage"]
SMALL = {
    "image_px": 32,
    "patch_px": 16,
    "width": 32,
    "vision_layers": 1,
    "text_layers": 2,
    "decoder_layers": 2,
    "heads": 2,
    "queries": 5,
    "length": 12,
}


@pytest.fixture(scope="module")
def coca():
    words = Words.in_texts(CAPTIONS)
    torch.manual_seed(0)
    coca = random_coca(config_of(**SMALL, vocabulary=len(words)), words)
    for name, value in coca.model.named_parameters():  # opinions, so that captions differ
        value.data *= 3 if "weight" in name and value.ndim > 1 else 1
    return coca


class Uncached:
    """The same search with the whole text read again for every word, by open_clip's modules alone."""

    def __init__(self, coca, image_tokens):
        self.coca, self.images = coca, image_tokens
        self.rows = torch.arange(len(image_tokens))
        self.so_far = torch.full((len(image_tokens), 1), coca.words.start)

    def advance(self, tokens):
        if tokens is not None:
            self.so_far = torch.cat([self.so_far, tokens[:, None]], dim=1)
        _, read = self.coca.model._encode_text(self.so_far)
        logits = self.coca.model.text_decoder(self.images[self.rows], read)[:, -1]
        logits[:, PADDING] = -torch.inf
        return logits

    def reorder(self, rows):
        self.rows, self.so_far = self.rows[rows], self.so_far[rows]


def test_logits_word_by_word_are_those_of_the_whole_text(coca):
    images, tokens = torch.randn(3, 5, 32), torch.randint(1, len(coca.words), (3, 6))
    tokens[:, 0] = coca.words.start
    with torch.inference_mode():
        _, read = coca.model._encode_text(tokens)
        expected = coca.model.text_decoder(images, read)
        expected[..., PADDING] = -torch.inf
        decoder = CachedDecoder(coca, images, 6)
        found = [decoder.advance(None), *(decoder.advance(tokens[:, at]) for at in range(1, 6))]
    torch.testing.assert_close(torch.stack(found, dim=1), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("beams", [1, 3])
def test_captions_are_those_found_without_a_cache(coca, beams):
    images = torch.randn(12, 5, 32, generator=torch.Generator().manual_seed(1)) * 3
    options = {"beams": beams, "max_tokens": 10, "length_penalty": 1.0}
    found = coca.captions(images, **options)
    expected = search(Uncached(coca, images), end=coca.words.end, **options)
    assert [one.text for one in found] == [coca.words.text(ids) for ids in expected]
    assert len({one.text for one in found}) > 3
    assert [coca.captions(images[i : i + 1], **options)[0].text for i in range(12)] == [one.text for one in found]
    assert all(one.log_prob < 0 for one in found)


def test_a_small_vocabulary_reads_and_writes_the_same_text_and_leaves_out_what_it_does_not_know():
    words = Words.in_texts(CAPTIONS)
    for caption in CAPTIONS:
        assert words.text(words.ids(caption)) == caption
    assert words.text(words.ids("a red elephant")) == "a red"
    tokens = words.tokens(["a red star", "a " * 40], 8)
    assert tokens[0].tolist() == [words.start, *words.ids("a red star"), words.end, 0, 0, 0]
    assert tokens[1, -1] == words.end == tokens.max()


def test_a_saved_coca_is_read_back_and_its_projection_is_initialised(coca, tmp_path):
    save_coca(tmp_path / "coca", config_of(**SMALL, vocabulary=len(coca.words)), coca)
    again = load_coca(tmp_path / "coca", device=torch.device("cpu"))
    assert isinstance(again, Coca) and again.width == 32 and again.length == 12
    torch.testing.assert_close(again.texts(CAPTIONS), coca.texts(CAPTIONS))
    assert coca.model.text_decoder.text_projection.std() < 3


@pytest.mark.parametrize(
    ("name", "tag", "message"),
    [
        ("coca_none", "", "its CoCas: coca_base"),
        ("RN50", "", "RN50 is no CoCa"),
        ("coca_roberta-ViT-B-32", "", "expected open_clip's own tower"),
        ("coca_ViT-B-32", "none", "is neither a file nor a tag of coca_ViT-B-32; its tags: laion2b"),
    ],
)
def test_what_is_no_coca_of_open_clip_is_refused(name, tag, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        fetch_coca(tmp_path, name, tag)
