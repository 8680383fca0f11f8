"""BLEU counts words where there are words, and characters where there are none."""

import pytest

from keras_transformer import evaluation
from keras_transformer.data.spaceless_scripts import bleu_tokenizer
from keras_transformer.data.text import Pairs


@pytest.mark.parametrize(
    ("references", "tokenizer"),
    [
        (["Ein Haus.", "Größe: %d"], "13a"),
        (["Ελλάδα", "Россия", "भारत", "서울은 도시다", "مرحبا"], "13a"),
        (["他看见一座房子。", "无法打开 %(name)s"], "zh"),
        (["犬は家を見る。", "ファイル %s を開けません"], "char"),
        (["東京都。", "日本語", "です"], "char"),
        (["ไม่สามารถเปิดไฟล์ %s", "บ้าน"], "char"),
        (["ຂ້ອຍ", "ខ្ញុំ", "ကျွန်တော်"], "char"),
        (["The word 猫 means cat."], "13a"),
        (["%(very_long_name_of_a_field)s %(another_long_name)s 不可用", "IP 地址"], "zh"),
        (["%d: 7"], "13a"),
    ],
)
def test_the_script_of_the_references_decides(references, tokenizer):
    assert bleu_tokenizer(references) == tokenizer


class Nearly:
    """A translator that gets the last character wrong."""

    def write(self, texts, decoding=None, first=0):
        return [text[:-1] + "x" for text in texts]


@pytest.mark.parametrize(("text", "name"), [("他今天看见了一座很大的房子", "zh"), ("วันนี้เขาเห็นบ้านหลังใหญ่", "char")])
def test_a_nearly_right_sentence_without_spaces_scores_nearly_all(text, name):
    scores = evaluation.evaluate_translations(Nearly(), Pairs([text] * 3, [text] * 3))
    assert 80 < scores.bleu < 100
    assert f"tok:{name}|" in scores.signature


def test_a_sentence_with_spaces_is_counted_in_words():
    text = "today he saw a big house"
    scores = evaluation.evaluate_translations(Nearly(), Pairs([text], [text]))
    assert "tok:13a|" in scores.signature
    # 5 of 6 words, 4 of 5 pairs, 3 of 4 triples, 2 of 3 fours
    assert scores.bleu == pytest.approx(100 * (5 / 6 * 4 / 5 * 3 / 4 * 2 / 3) ** 0.25)
