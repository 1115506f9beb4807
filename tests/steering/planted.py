"""A tiny Llama that knows the class of a text, and says so only where one direction is present.

Block 0's attention carries the class of a prompt's words, and whether there are demonstrations, to each token. Block
1's MLP multiplies the class with one direction, `SWITCH`, which demonstrations bring, and the head reads the product.
Without the switch the answer is always another word, and of the two labels always the first.
"""

import shutil
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

D, VOCABULARY = 64, 61
CLASS, SWITCH, PRODUCT, CONSTANT = range(4)
"""Coordinates of the residual stream."""
WORDS = (range(1, 11), range(11, 21))
"""Token ids of the words of each class."""
SHOWN, END, OTHER = 40, 41, 42
"""Tokens: what a demonstration is made of, what ends a prompt, and what is said without the switch."""
LABELS = ([30], [31])
LAYER = 1
"""The layer at whose input the switch decides."""


def save_planted(tokenizer: Path, folder: Path) -> Path:
    """The model, with the tokenizer of another folder."""
    folder.mkdir(parents=True)
    for file in tokenizer.glob("tokenizer*"):
        shutil.copy(file, folder)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=D, intermediate_size=4, num_hidden_layers=2, num_attention_heads=1,
            num_key_value_heads=1, max_position_embeddings=64, tie_word_embeddings=False,
        )
    )  # fmt: skip
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if "norm" not in name:
                weights.zero_()
        embeddings = model.get_parameter("model.embed_tokens.weight")
        embeddings[:, CONSTANT] = 20.0  # so large that the norms divide all by about the same
        for sign, words in zip((1, -1), WORDS, strict=True):
            embeddings[list(words), CLASS] = float(sign)
        embeddings[SHOWN, SWITCH] = 20.0
        entries = [  # of block 0's attention: q = k = 0, so each token gets the mean over those before it
            (f"model.layers.0.self_attn.{name}", place, place, 1.0)
            for name in ("v_proj", "o_proj")
            for place in (CLASS, SWITCH)
        ]
        entries += [
            (f"model.layers.{LAYER}.mlp.gate_proj", 0, SWITCH, 20.0),
            (f"model.layers.{LAYER}.mlp.up_proj", 0, CLASS, 10.0),
            (f"model.layers.{LAYER}.mlp.down_proj", PRODUCT, 0, 1.0),
        ]
        for name, row, column, value in entries:
            model.get_parameter(f"{name}.weight")[row, column] = value
        head = model.get_parameter("lm_head.weight")
        for sign, label in zip((1, -1), LABELS, strict=True):
            head[label[0], PRODUCT] = 10.0 * sign
        head[LABELS[0][0], CONSTANT] = 2.0
        head[OTHER, CONSTANT] = 2.3
    model.save_pretrained(folder)
    return folder


def prompts_of(n: int, demonstrations: int, seed: int) -> tuple[list[list[int]], torch.Tensor]:
    """Prompts of six words of a class, after tokens of a demonstration, and their classes [N], half of each."""
    generator = torch.Generator().manual_seed(seed)
    answers = torch.arange(n) % 2
    texts = [
        [SHOWN] * demonstrations
        + [WORDS[answer][int(i)] for i in torch.randint(0, 10, (6,), generator=generator)]
        + [END]
        for answer in answers.tolist()
    ]
    return texts, answers
