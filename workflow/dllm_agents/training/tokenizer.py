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
TAGS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>")
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
_TAG = re.compile("|".join(re.escape(token) for token in (*CONTROL_TOKENS, *TAGS)))


def build(texts: Sequence[str], phrase_texts: Sequence[str], max_vocabulary: int, phrase_words: int = 6) -> PreTrainedTokenizerFast:
    """A tokenizer of at most `max_vocabulary` tokens over `texts`; phrases are learnt from `phrase_texts` alone.

    The rendered prompt's own words (`texts` without `phrase_texts`) are never joined: a fully masked block finds its positions by
    the fixed words at the end of the prompt, one token each.
    """
    from transformers import PreTrainedTokenizerFast

    words = Counter(word for text in texts for part in _TAG.split(text) for word in re.findall(_WORD, part))
    room = max_vocabulary - 256 - len(CONTROL_TOKENS) - len(TAGS)
    if len(words) <= room:
        phrases = find_phrases(phrase_texts, phrase_words)[: room - len(words)]
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


def find_phrases(texts: Iterable[str], max_words: int, together: float = 0.98, min_count: int = 20) -> list[str]:
    """Runs of words that practically never part: each pair inside follows one another in at least `together` of the uses of both.

    Longest first, then most frequent, so that a regular expression of alternatives takes the longest.
    """
    lines = Counter(text for text in texts)
    split = {text: re.findall(_WORD, text) for text in lines}
    single, pairs = Counter[str](), Counter[tuple[str, str]]()
    for text, count in lines.items():
        for word in split[text]:
            single[word] += count
        for pair in zip(split[text], split[text][1:], strict=False):
            pairs[pair] += count
    joined = {
        pair
        for pair, count in pairs.items()
        if count >= min_count and count >= together * single[pair[0]] and count >= together * single[pair[1]]
    }
    found = Counter[str]()
    for text, count in lines.items():
        run: list[str] = []
        for word in [*split[text], ""]:
            if run and ((run[-1], word) not in joined or len(run) == max_words):
                if len(run) > 1:
                    found["".join(run)] += count
                run = []
            run.append(word)
    return sorted(found, key=lambda phrase: (-len(phrase), -found[phrase], phrase))


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
