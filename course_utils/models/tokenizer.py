"""The bundled tokenizer: byte-level BPE in which every digit is its own token."""

import itertools
from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from course_utils.world import documents

SEPARATOR = "<|end|>"  # begins every document, and so ends the one before
PADDING = "<|pad|>"


def train_tokenizer(
    texts: Iterable[str] | None = None, *, vocabulary: int = 1024
) -> PreTrainedTokenizerFast:
    """Byte-pair encoding (Sennrich et al., 2016) on `texts`; by default 30,000 training documents
    of the world.

    Calling the tokenizer puts SEPARATOR before the text; `add_special_tokens=False` leaves it out.
    """
    if texts is None:
        texts = (document.text for document in itertools.islice(documents("train"), 30_000))
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=[SEPARATOR, PADDING],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    bpe.post_processor = processors.TemplateProcessing(
        single=f"{SEPARATOR} $A", special_tokens=[(SEPARATOR, 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=SEPARATOR,
        eos_token=SEPARATOR,
        pad_token=PADDING,
        padding_side="left",
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )
