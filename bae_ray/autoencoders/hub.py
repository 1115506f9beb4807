"""Autoencoders on the Hugging Face hub."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from bae_ray.autoencoders.config import ArchitectureConfig
from bae_ray.errors import CheckpointError, HubError, first_line
from bae_ray.files import write_text
from bae_ray.locations import local_path, location_of
from bae_ray.working_copies import refresh

MODEL_CARD = """---
library_name: bae_ray
tags: [autoencoder, interpretability]
---
An autoencoder of a language model's hidden states, trained with bae_ray (arXiv 2509.20997): `{config}`

```python
from bae_ray import load_autoencoder

autoencoder = load_autoencoder("{repo_id}")
```
"""


class OnHub(ABC):
    """Uploading an autoencoder."""

    config: ArchitectureConfig

    @abstractmethod
    def save_pretrained(self, save_directory: str | Path) -> None:
        """Write the files of the autoencoder into a folder."""

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str = "Upload autoencoder",
        private: bool | None = None,
        token: str | None = None,
        revision: str | None = None,
        create_pr: bool = False,
    ) -> str:
        """Upload to the Hugging Face hub as `repo_id`, which is created if it is missing. Returns the commit's address.

        A model card says how to load it: `load_autoencoder(repo_id)`.
        """
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            write_text(
                Path(folder) / "README.md", MODEL_CARD.format(config=self.config.model_dump_json(), repo_id=repo_id)
            )
            return upload(Path(folder), repo_id, commit_message, private, token, revision, create_pr)


def upload(
    folder: Path,
    repo_id: str,
    commit_message: str,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
) -> str:
    """Upload a folder to the Hugging Face hub and return the commit's address. A missing repository is created.

    Raises `HubError` without a token, and if the hub refuses or cannot be reached.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        HTTPError,  # pyright: ignore[reportPrivateImportUsage] - of whichever httpx the hub's library takes
        OfflineModeIsEnabled,
    )

    if not (token or get_token()):
        raise HubError(
            f"there is no token of the Hugging Face hub, which uploading '{repo_id}' takes. Set HF_TOKEN to one that "
            "may write (https://huggingface.co/settings/tokens), or call `hf auth login`."
        )
    api = HfApi(token=token)
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        return str(
            api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                commit_message=commit_message,
                revision=revision,
                create_pr=create_pr,
            )
        )
    except (HfHubHTTPError, HFValidationError) as error:
        raise HubError(
            f"the Hugging Face hub at {api.endpoint} refuses '{repo_id}': {first_line(error)} Check the name, and that "
            "the token may write there."
        ) from error
    except (HTTPError, OfflineModeIsEnabled, OSError) as error:
        raise HubError(
            f"the Hugging Face hub at {api.endpoint} cannot be reached for '{repo_id}': {first_line(error)} Check the "
            "connection, HF_ENDPOINT and HF_HUB_OFFLINE; the same command tries again."
        ) from error


def fetched(
    source: str | Path,
    files: Iterable[str],
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | Path | None = None,
    optional: Iterable[str] = (),
) -> Path:
    """The local folder of a saved autoencoder. Files on the hub are downloaded; `optional` ones if they exist.

    Raises `CheckpointError` if there is neither such a folder nor such an id that can be reached.
    """
    folder = local_path(source)
    if location_of(folder) is not None:
        wanted = {*files, *optional}
        refresh(folder, large=wanted.__contains__)
        return folder
    parts = str(source).split("/")
    if folder.exists() or len(parts) > 2 or isinstance(source, Path):
        return folder
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
    )

    download = partial(hf_hub_download, str(source), revision=revision, token=token, cache_dir=cache_dir)
    try:
        for name in files:
            folder = Path(download(name)).parent
        for name in optional:
            with suppress(EntryNotFoundError):
                download(name)
    except (HfHubHTTPError, LocalEntryNotFoundError, HFValidationError, OSError) as error:
        raise CheckpointError(
            f"'{source}' is neither a folder nor an autoencoder on the Hugging Face hub that can be reached: "
            f"{first_line(error)} Check the name, the connection and HF_TOKEN."
        ) from error
    return folder
