"""A tokenizer made from the training texts, the same for every paradigm that is trained on them.

All text is lossless: below the words lie the 256 bytes. Where the words of the texts fit the vocabulary (a simulator's closed
language) every word is one token and phrases whose words never part are one token too; otherwise byte-pair merges are learnt.
Small vocabularies and short prompts are what lets a tiny model learn on a CPU.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

PAD, EOS, MASK, UNK = "<pad>", "<eos>", "<mask>", "<unk>"
SYSTEM, USER, ASSISTANT = "<|system|>", "<|user|>", "<|assistant|>"
CONTROL_TOKENS = (PAD, EOS, MASK, UNK, SYSTEM, USER, ASSISTANT)
# One token each, but part of the text: decoding keeps them.
TAGS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>", "<answer>", "</answer>")
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}<|assistant|>{{ message['content'] }}<eos>"
    "{% elif message['role'] == 'system' %}<|system|>{{ message['content'] }}"
    "{% else %}<|user|>{{ message['content'] }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_WORD = r" ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]|\s"
_PIECE = r" ?[A-Za-z_]+| ?[0-9]{1,3}| ?[^\sA-Za-z0-9_]+|\s+"
_NUMBER = re.compile(r"[0-9]")
_TAG = re.compile("|".join(re.escape(token) for token in (*CONTROL_TOKENS, *TAGS)))


def build(texts: Sequence[str], phrase_texts: Sequence[str], max_vocabulary: int) -> PreTrainedTokenizerFast:
    """A tokenizer of at most `max_vocabulary` tokens over `texts`; phrases are learnt from `phrase_texts` alone.

    The rendered prompt's own words (`texts` without `phrase_texts`) are never joined: a fully masked block finds its positions by
    the fixed words at the end of the prompt, one token each.
    """
    from transformers import PreTrainedTokenizerFast

    words = Counter(word for text in texts for part in _TAG.split(text) for word in re.findall(_WORD, part))
    room = max_vocabulary - 256 - len(CONTROL_TOKENS) - len(TAGS)
    if len(words) <= room:
        phrases = find_phrases(phrase_texts)[: room - len(words)]
        backend = _word_level(sorted(words), phrases)
    else:
        backend = _byte_pairs(texts, max_vocabulary - len(TAGS))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        eos_token=EOS,
        mask_token=MASK,
        unk_token=UNK,
        extra_special_tokens=[SYSTEM, USER, ASSISTANT],
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def find_phrases(texts: Iterable[str], max_words: int = 8, together: float = 0.98, min_count: int = 20, sample: int = 3000) -> list[str]:
    """Runs of words that are joined because one of two neighbours practically never stands without the other.

    Like byte-pair merging, but over words and by how surely they belong together, not by how often they occur: what varies (colours,
    objects, numbers) stays apart, so that an object is the same tokens in an observation and in the action that names it. Longest
    first, so that a regular expression of alternatives takes the longest.
    """
    common = Counter(texts).most_common(sample)
    lines = [(re.findall(_WORD, text), count) for text, count in common]
    length = {word: 1 for line, _ in lines for word in line}
    while True:
        single, pairs = Counter[str](), Counter[tuple[str, str]]()
        for line, count in lines:
            for unit in line:
                single[unit] += count
            for pair in zip(line, line[1:], strict=False):
                pairs[pair] += count
        joined = {
            pair
            for pair, count in pairs.items()
            if count >= max(min_count, together * min(single[pair[0]], single[pair[1]]))
            and length[pair[0]] + length[pair[1]] <= max_words
            and not _NUMBER.search(pair[0] + pair[1])
        }
        if not joined:
            return sorted((unit for unit in single if length[unit] > 1), key=lambda unit: (-len(unit), unit))
        length.update({first + second: length[first] + length[second] for first, second in joined})
        lines = [(_join(line, joined), count) for line, count in lines]


def _join(line: Sequence[str], joined: set[tuple[str, str]]) -> list[str]:
    out: list[str] = []
    at = 0
    while at < len(line):
        pair = at + 1 < len(line) and (line[at], line[at + 1]) in joined
        out.append(line[at] + line[at + 1] if pair else line[at])
        at += 2 if pair else 1
    return out


def _word_level(words: Sequence[str], phrases: Sequence[str]) -> Tokenizer:
    """Words and phrases as whole tokens over a byte alphabet; what is not among them falls back to bytes."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    units = [byte_level.pre_tokenize_str(unit)[0][0] for unit in (*words, *phrases)]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys((*CONTROL_TOKENS, *TAGS, *alphabet, *units)))}
    # ignore_merges: a unit that is in the vocabulary is one token though no merges lead to it.
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token=UNK, ignore_merges=True))
    alternatives = "|".join([*(re.escape(phrase) + r"(?![A-Za-z0-9])" for phrase in phrases), _WORD])
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(alternatives), "isolated"), byte_level])
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(list(CONTROL_TOKENS))
    backend.add_tokens([AddedToken(tag, normalized=False) for tag in TAGS])
    return backend


def _byte_pairs(texts: Sequence[str], size: int) -> Tokenizer:
    """Byte-pair merges learnt from the texts."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend = Tokenizer(models.BPE(unk_token=UNK))
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(_PIECE), "isolated"), byte_level])
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(CONTROL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator((part for text in texts for part in _TAG.split(text) if part), trainer)
    backend.add_tokens([AddedToken(tag, normalized=False) for tag in TAGS])
    return backend
