"""The tiny model's own tokenizer: byte-level BPE in which every word the model is pretrained on is one token.

All 256 bytes are in the vocabulary, so any gloss in any script can be spelled. Merges are not learnt from a corpus:
the syllables of invented names come first, then whole words, so that a sequence is as short as it can be.
"""

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from slr.prepare.synthetic.signs import HANDSHAPES, LOCATIONS, PATHS, SYLLABLES

CONTEXT_LENGTH = 4096
FRAMES = 64  # frame headings up to this number are one token; later ones are spelled
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>", "<video>")
PROMPT_WORDS = (
    *("Name", "Describe", "Which", "What", "You", "are", "an", "expert", "in", "sign", "language", "recognition"),
    *("the", "this", "shown", "video", "clip", "frames", "is", "was", "it", "with", "one", "two", "word", "words"),
    *("exactly", "only", "a", "and", "of", "by", "signer", "gloss", "answer", "Answer", "Watch", "hand", "hands"),
)
ROLES = ("user", "system", "assistant")
_WORDS = r" ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s"
_HEADING = r"Frame\d+: "


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer, ready to be saved; the same one each time."""
    tokenizer = Tokenizer(_bpe(_merges()))
    tokenizer.normalizer = normalizers.NFC()
    splits = pre_tokenizers.Split(Regex(f"{_HEADING}|{_WORDS}"), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        padding_side="left",
        model_max_length=CONTEXT_LENGTH,
        clean_up_tokenization_spaces=False,
        extra_special_tokens={
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
    )


def _merges() -> list[tuple[str, str]]:
    """Merges in order of rank: syllables, words that may begin a text, words after a space, frame headings.

    A new word is merged on top of what the merges before it make of it, so it becomes one token, and stays one: each
    later merge has a higher rank than those that the word needs. No word that may begin a text begins with two
    syllables: invented names would share its token.
    """
    signs = [*HANDSHAPES, *LOCATIONS, *(movement for pair in PATHS.values() for movement in pair)]
    first = [*signs, *ROLES, *(word for word in PROMPT_WORDS if word.istitle())]
    after = [" " + word for word in (*signs, *PROMPT_WORDS)]
    headings = [f"Frame{i}: " for i in range(1, FRAMES + 1)]
    merges: list[tuple[str, str]] = []
    for word in (*SYLLABLES, *first, *after, *headings):
        text = word.replace(" ", "\u0120")  # as byte-level BPE writes a space; the words are printable ASCII
        pieces = [token.value for token in _bpe(merges).tokenize(text)]
        merges += [("".join(pieces[:right]), pieces[right]) for right in range(1, len(pieces))]
    return merges


def _bpe(merges: list[tuple[str, str]]) -> models.BPE:
    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *(a + b for a, b in merges)]
    return models.BPE(vocab={piece: i for i, piece in enumerate(dict.fromkeys(pieces))}, merges=merges)
