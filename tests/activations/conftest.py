from pathlib import Path

import pytest

from tests.activations.source_tables import with_tokens


@pytest.fixture(scope="module")
def framed_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a tokenizer that puts <s> (61) before and </s> (62) after each text."""
    folder = tmp_path_factory.mktemp("framed")
    return with_tokens(tiny_model, folder, "<s> $A </s>", bos_token="<s>", eos_token="</s>")
